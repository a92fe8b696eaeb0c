# UniMatch V2 (arXiv 2410.10777): an averaged teacher labels, two strong views learn from complementary channels.
# The unlabelled pipeline is the data config's two_strong_pipeline. The CutMix partner is the next image of the batch
# where its paper takes the batch in reverse.
method = dict(
    type='SemiSegmentor',
    pseudo_labels=dict(tau=0.95, momentum=1.0),
    loss_weight=dict(sup=dict(seg=0.5), unsup=dict(hard=0.5)),
    labels_from='teacher',
    num_strong=2,
    complementary_dropout=True,
    cutmix_partner='batch',
    cutmix_predictor='own',
    predict_on='teacher',
)
custom_hooks = [
    dict(type='PseudoLabelHook', alpha=0.0, teacher_interval='step', teacher_momentum=0.996),
    dict(type='NonFiniteHook', action='stop'),
    dict(type='BrokenFilesHook', limit=100),
]
