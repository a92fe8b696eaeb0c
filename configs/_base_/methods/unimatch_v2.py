# UniMatch V2 (arXiv 2410.10777): an EMA teacher labels, two strong views learn from complementary channels.
# The unlabelled pipeline is the data config's two_strong_pipeline.
_base_ = './fixmatch.py'
method = dict(
    teacher=dict(momentum=0.996, interval='step'),
    pseudo_labels=dict(source='teacher'),
    cutmix=dict(partner='reversed', predictor='own'),
    views=dict(num_strong=2, complementary_dropout=True),
    predict_on='teacher',
)
