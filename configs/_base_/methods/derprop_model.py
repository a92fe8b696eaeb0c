# The parts of derprop.py. No two bases may both define custom_hooks, so one that does is joined to this file:
#   custom_hooks = [*_base_.custom_hooks, *_base_.method_hooks]
method = dict(
    type='SemiSegmentor',
    propagation_head=dict(
        type='DerPropHead',
        channels=256,
        max_order=1,
        normalize='source_mean',
        num_regions=0,
    ),
    pseudo_labels=dict(tau=0.0, momentum=1.0, align=0.1),
    loss_weight=dict(
        sup=dict(seg=1.0, prop=0.1, affinity=0.1),
        unsup=dict(hard=0.5, fp=0.5, prop=0.1, affinity=0.1, smooth=0.01),
    ),
    labels_from='teacher',
    joint_forward=False,
    strong_statistics=False,
    cutmix_partner='batch',
    cutmix_predictor='own',
    affinity_pairs='inside',
    label_affinity='nearest',
    label_affinity_grad=True,
    smoothness='absolute',
    perturb_ratio=0.5,
    predict_on='teacher',
)
method_hooks = [
    dict(type='PseudoLabelHook', alpha=0.0, teacher_interval='step', teacher_momentum=0.99),
    dict(type='NonFiniteHook', action='stop'),
    dict(type='BrokenFilesHook', limit=100),
]
