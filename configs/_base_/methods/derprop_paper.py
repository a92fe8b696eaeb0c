# DerProp (arXiv 2508.02254) as its paper intends it; derprop_published.py behaves as its authors' program, derprop.py
# is what trains best.
method = dict(
    type='SemiSegmentor',
    propagation_head=dict(type='DerPropHead', channels=256, max_order=1, normalize='source_mean'),
    teacher=dict(momentum=0.5, interval='epoch'),
    pseudo_labels=dict(
        source='student',
        alpha='linear',
        threshold=dict(type='MaxConfidenceThreshold', init=0.85, momentum=0.999),
        regions=dict(type='RegionPropagation', num=128),
    ),
    cutmix=dict(partner='batch', predictor='own'),
    views=dict(perturb_ratio=0.5),
    # The paper's weights; it halves their sum; prop is the mean of its strong and its weak part, and smooth of the
    # labelled and the weak one.
    losses=dict(
        seg=dict(type='SupervisedLoss', loss_weight=0.5 / 2),
        seg_prop=dict(type='SupervisedLoss', on='propagated', loss_weight=0.5 / 2),
        affinity_x=dict(type='LabelAffinityLoss', loss_weight=0.5 / 2),
        kl=dict(type='SoftConsistencyLoss', kind='kl', loss_weight=0.25 / 2),
        soft=dict(type='SoftConsistencyLoss', kind='soft', loss_weight=0.25 / 2),
        fp=dict(type='PerturbedConsistencyLoss', loss_weight=0.25 / 2),
        prop_s=dict(type='PropagatedConsistencyLoss', on='strong', loss_weight=0.25 / 2 / 2),
        prop_w=dict(type='PropagatedConsistencyLoss', on='weak', loss_weight=0.25 / 2 / 2),
        affinity_u=dict(type='AffinityConsistencyLoss', loss_weight=0.5 / 2),
        smooth=dict(type='SmoothnessLoss', on='labeled', loss_weight=0.25 / 2 / 2),
        smooth_w=dict(type='SmoothnessLoss', on='weak', loss_weight=0.25 / 2 / 2),
        smooth_s=dict(type='SmoothnessLoss', on='strong', loss_weight=0.25 / 2),
    ),
    predict_on='teacher',
)
