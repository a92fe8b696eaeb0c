# UniMatch (arXiv 2208.09910): FixMatch with two strong views, each with its own CutMix box, and perturbed features.
# The unlabelled pipeline is the data config's two_strong_pipeline. Its paper takes tau = 0 on Cityscapes.
_base_ = './fixmatch.py'
method = dict(
    loss_weight=dict(sup=dict(seg=0.5), unsup=dict(hard=0.25, fp=0.25)),
    num_strong=2,
    perturb_ratio=0.5,
)
