# Hard, soft and perturbed consistency with labels of the student's own, which have the classes in their labelled
# shares, as have predictions in evaluation (docs/study.md).
_base_ = './fixmatch.py'
method = dict(
    pseudo_labels=dict(
        threshold=dict(_delete_=True, type='MaxConfidenceThreshold', init=0.85, momentum=0.999),
        alignment=dict(type='DistributionAlignment', rate=0.1, predict=True),
    ),
    views=dict(update_bn_on_strong=False),
    losses=dict(
        seg=dict(loss_weight=1.0),
        hard=dict(loss_weight=0.5),
        kl=dict(type='SoftConsistencyLoss', kind='kl', loss_weight=0.5),
        fp=dict(type='PerturbedConsistencyLoss', loss_weight=0.5),
    ),
)
