# FixMatch with an EMA teacher, the baseline of UniMatch V2 (arXiv 2410.10777): hard labels of what it is sure of.
# There labelled images and strong views share a forward; here each has its own, which only batch normalisation notices.
_base_ = './fixmatch.py'
method = dict(
    teacher=dict(momentum=0.996, interval='step'),
    pseudo_labels=dict(source='teacher'),
    cutmix=dict(predictor='own'),
    predict_on='teacher',
)
