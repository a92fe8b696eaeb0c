# DerProp on Cityscapes 1/8: 372 labelled and 2,603 unlabelled images. Otherwise as
# r101_cityscapes_1-4.py.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/cityscapes_1-8.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=19, **_base_.method)
model['segmentor'].decode_head.loss_decode = _base_.ohem
model['segmentor'].test_cfg = _base_.slide
