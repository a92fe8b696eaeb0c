# UniMatch (arXiv 2208.09910): FixMatch with two strong views, each with its own CutMix box, and perturbed features.
# The unlabelled pipeline is the data config's two_strong_pipeline. As in fixmatch.py the next image of the batch fills
# the boxes; its program takes a second crop of the same image, for which cutmix=dict(partner='second_view') and the
# data config's two_view_two_strong_pipeline are. Its paper takes the threshold 0 on Cityscapes.
_base_ = './fixmatch.py'
method = dict(
    views=dict(num_strong=2, perturb_ratio=0.5),
    losses=dict(
        hard=dict(loss_weight=0.25),
        fp=dict(type='PerturbedConsistencyLoss', loss_weight=0.25),
    ),
)
