# CorrMatch (arXiv 2306.04300): labels propagated along the correlation of positions, to pixels and to regions.
method = dict(
    type='SemiSegmentor',
    propagation_head=dict(
        type='DerPropHead', channels=256, max_order=0, normalize='source', num_regions=128, last_row=False
    ),
    pseudo_labels=dict(tau=0.85, momentum=0.999),
    loss_weight=dict(
        sup=dict(seg=0.5 / 2, prop=0.5 / 2),
        unsup=dict(hard=0.25 / 2, kl=0.25 / 2, fp=0.25 / 2, prop=0.25 / 2),
    ),
    cutmix_partner='batch',
    cutmix_predictor='student',
    cutmix_target=True,
    perturb_ratio=0.5,
    predict_on='student',
)
custom_hooks = [
    dict(type='PseudoLabelHook', alpha=0.0),
    dict(type='NonFiniteHook', action='stop'),
    dict(type='BrokenFilesHook', limit=100),
]
