# UniMatch V2 (arXiv 2410.10777): an EMA teacher labels, two strong views learn from complementary channels.
# The batch in reverse fills the boxes, as in its program. The unlabelled pipeline is the data config's
# two_strong_pipeline.
_base_ = './fixmatch_ema.py'
method = dict(
    cutmix=dict(partner='reversed'),
    views=dict(num_strong=2, complementary_dropout=True),
)
