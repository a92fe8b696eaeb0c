# DerProp with MMSegmentation's DeepLabV3+ on VOC 2012, the classic 1/8 split: 183 labelled and 10,399 unlabelled
# images. Otherwise as r50_voc_1-8.py. A combination of ours.
_base_ = [
    '../_base_/models/sepaspp_r50v1c.py',
    '../_base_/splits/voc_1-8.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
