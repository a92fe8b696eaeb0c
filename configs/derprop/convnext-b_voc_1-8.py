# DerProp with UPerNet on ConvNeXt-B on VOC 2012, the classic 1/8 split: 183 labelled and 10,399 unlabelled images.
# Otherwise as convnext-t_voc_1-8.py.
_base_ = [
    '../_base_/models/upernet_convnext-b.py',
    '../_base_/splits/voc_1-8.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/schedules/adamw_convnext.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
optim_wrapper = dict(_delete_=True, **_base_.adamw)
param_scheduler = _base_.warmup_poly
optim_wrapper['paramwise_cfg'].num_layers = 12
