# The recommended preset (docs/study.md): UniMatch V2 with five changes. The EMA teacher's pseudo-labels are aligned
# with the labelled classes' shares, and so are predictions in evaluation; there is no threshold; the teacher's
# normalisation has statistics of both labelled images and weak views; half of the CutMix boxes are from labelled
# images, with their true labels. The unlabelled pipeline is the data config's two_strong_pipeline.
method = dict(
    type='SemiSegmentor',
    teacher=dict(momentum=0.99, interval='step', statistics='both'),
    pseudo_labels=dict(
        source='teacher',
        threshold=dict(type='FixedThreshold', value=0.0),
        alignment=dict(type='DistributionAlignment', rate=0.1, predict=True),
    ),
    cutmix=dict(partner='reversed', predictor='own', labeled=0.5),
    views=dict(num_strong=2, complementary_dropout=True, joint_forward=False, update_bn_on_strong=False),
    losses=dict(
        seg=dict(type='SupervisedLoss', loss_weight=1.0),
        hard=dict(type='HardConsistencyLoss', loss_weight=1.0),
    ),
    predict_on='teacher',
)
