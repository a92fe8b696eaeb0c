# CorrMatch (arXiv 2306.04300): labels propagated along the correlation of positions, to pixels and to regions. Its
# program does not cut-mix the target of its kl, and never draws the last position. It fills the boxes from a second
# crop of the same image (cutmix=dict(partner='second_view'), two_view_pipeline); here the next image of the batch does,
# which is loaded anyway.
method = dict(
    type='SemiSegmentor',
    propagation_head=dict(type='DerPropHead', channels=256, max_order=0, normalize='source'),
    pseudo_labels=dict(
        source='student',
        threshold=dict(type='MaxConfidenceThreshold', init=0.85, momentum=0.999),
        regions=dict(type='RegionsWithoutLastRow', num=128),
    ),
    cutmix=dict(partner='batch', predictor='student'),
    losses=dict(
        seg=dict(type='SupervisedLoss', loss_weight=0.5 / 2),
        seg_prop=dict(type='SupervisedLoss', on='propagated', loss_weight=0.5 / 2),
        hard=dict(type='HardConsistencyLoss', loss_weight=0.25 / 2),
        kl=dict(type='UnmixedConsistencyLoss', kind='kl', loss_weight=0.25 / 2),
        fp=dict(type='PerturbedConsistencyLoss', loss_weight=0.25 / 2),
        prop_s=dict(type='PropagatedConsistencyLoss', on='strong', loss_weight=0.25 / 2 / 2),
        prop_w=dict(type='PropagatedConsistencyLoss', on='weak', loss_weight=0.25 / 2 / 2),
    ),
    predict_on='student',
)
