# An EMA teacher whose pseudo-labels are aligned with the labelled classes' shares and need no threshold, and perturbed
# features: what was measured best (docs/study.md). It has FixMatch's CutMix and UniMatch's perturbation, no
# propagation.
method = dict(
    type='SemiSegmentor',
    teacher=dict(momentum=0.99, interval='step'),
    pseudo_labels=dict(
        source='teacher',
        threshold=dict(type='FixedThreshold', value=0.0),
        alignment=dict(type='DistributionAlignment', rate=0.1),
    ),
    cutmix=dict(partner='batch', predictor='own'),
    views=dict(joint_forward=False, update_bn_on_strong=False, perturb_ratio=0.5),
    losses=dict(
        seg=dict(type='SupervisedLoss', loss_weight=1.0),
        hard=dict(type='HardConsistencyLoss', loss_weight=0.5),
        fp=dict(type='PerturbedConsistencyLoss', loss_weight=0.5),
    ),
    predict_on='teacher',
)
