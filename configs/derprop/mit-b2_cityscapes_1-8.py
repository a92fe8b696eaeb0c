# DerProp with SegFormer MiT-B2 on Cityscapes 1/8: 372 labelled and 2,603 unlabelled images.
# AdamW as MMSegmentation trains it; data, crop 801, loss and epochs as r101_cityscapes_1-8.py. A combination of ours.
_base_ = [
    '../_base_/models/segformer_mit-b2.py',
    '../_base_/splits/cityscapes_1-8.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/schedules/adamw.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=19, **_base_.method)
model['segmentor'].decode_head.loss_decode = _base_.ohem
model['segmentor'].test_cfg = _base_.slide
optim_wrapper = dict(_delete_=True, **_base_.adamw)
param_scheduler = _base_.warmup_poly
