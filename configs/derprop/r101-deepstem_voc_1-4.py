# As r101_voc_1-4.py, on the paper's own network. Its ImageNet weights need a conversion to
# checkpoints/resnet101_deepstem.pth: docs/training.md.
_base_ = [
    '../_base_/models/deeplabv3plus_r101_deepstem.py',
    '../_base_/splits/voc_1-4.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
