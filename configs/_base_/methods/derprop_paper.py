# DerProp (arXiv 2508.02254) as its paper intends it; docs/options.md lists what the published program does instead.
method = dict(
    type='SemiSegmentor',
    propagation_head=dict(
        type='DerPropHead',
        channels=256,
        max_order=1,
        normalize='source_mean',
        num_regions=128,
        last_row=True,
    ),
    pseudo_labels=dict(tau=0.85, momentum=0.999),
    # The paper's weights; it halves their sum.
    loss_weight=dict(
        sup=dict(seg=0.5 / 2, prop=0.5 / 2, affinity=0.5 / 2),
        unsup=dict(kl=0.25 / 2, soft=0.25 / 2, fp=0.25 / 2, prop=0.25 / 2, affinity=0.5 / 2, smooth=0.25 / 2),
    ),
    cutmix_partner='batch',
    cutmix_predictor='own',
    cutmix_target=True,
    affinity_pairs='inside',
    label_affinity='nearest',
    label_affinity_grad=True,
    smoothness='absolute',
    perturb_ratio=0.5,
    predict_on='teacher',
)
custom_hooks = [
    dict(type='PseudoLabelHook', alpha='linear', teacher_interval='epoch', teacher_momentum=0.5),
    dict(type='NonFiniteHook', action='stop'),
    dict(type='BrokenFilesHook', limit=100),
]
