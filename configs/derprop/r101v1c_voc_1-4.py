# As r101_voc_1-4.py on MMSegmentation's own ResNet-101 (stem 32-32-64), whose weights download by themselves.
_base_ = [
    '../_base_/models/deeplabv3plus_r101v1c.py',
    '../_base_/splits/voc_1-4.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
