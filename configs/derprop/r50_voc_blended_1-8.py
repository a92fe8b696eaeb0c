# DerProp on VOC 2012, the blended 1/8 split: 1,323 labelled images of any quality (SegmentationClassAug) and
# 9,259 unlabelled ones. ResNet-50. Otherwise as r101_voc_1-4.py.
_base_ = [
    '../_base_/models/deeplabv3plus_r50.py',
    '../_base_/splits/voc_blended_1-8.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
