# DerProp on VOC 2012, the blended 1/4 split: 2,646 labelled images of any quality (SegmentationClassAug) and
# 7,936 unlabelled ones. Otherwise as r101_voc_1-4.py.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/voc_blended_1-4.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
