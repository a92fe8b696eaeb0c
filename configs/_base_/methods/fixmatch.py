# FixMatch (arXiv 2001.07685) for segmentation, with CutMix: hard labels of what the student is sure of. The next image
# of the batch fills the boxes, which is loaded anyway; UniMatch's FixMatch takes a second crop of the same image
# (cutmix=dict(partner='second_view'), two_view_pipeline).
method = dict(
    type='SemiSegmentor',
    pseudo_labels=dict(source='student', threshold=dict(type='FixedThreshold', value=0.95)),
    cutmix=dict(partner='batch', predictor='student'),
    losses=dict(
        seg=dict(type='SupervisedLoss', loss_weight=0.5),
        hard=dict(type='HardConsistencyLoss', loss_weight=0.5),
    ),
    predict_on='student',
)
