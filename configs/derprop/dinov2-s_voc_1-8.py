# DerProp with UPerNet on DINOv2 ViT-S/14 on VOC 2012, the classic 1/8 split: 183 labelled and 10,399 unlabelled images.
# AdamW with layer-wise rates; crop 518, otherwise data and epochs as r101_voc_1-8.py. A combination of ours.
_base_ = [
    '../_base_/models/upernet_dinov2-s.py',
    '../_base_/splits/voc_1-8_518.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/schedules/adamw_vit.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
optim_wrapper = dict(_delete_=True, **_base_.adamw)
param_scheduler = _base_.warmup_poly
