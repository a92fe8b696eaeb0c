# FixMatch (arXiv 2001.07685) for segmentation, with CutMix: hard labels of what the student is sure of.
method = dict(
    type='SemiSegmentor',
    pseudo_labels=dict(tau=0.95, momentum=1.0),
    loss_weight=dict(sup=dict(seg=0.5), unsup=dict(hard=0.5)),
    cutmix_partner='batch',
    cutmix_predictor='student',
    predict_on='student',
)
custom_hooks = [
    dict(type='PseudoLabelHook', alpha=0.0),
    dict(type='NonFiniteHook', action='stop'),
    dict(type='BrokenFilesHook', limit=100),
]
