# DerProp on VOC 2012, all finely labelled images: 1,464 labelled and 9,118 unlabelled. Otherwise as r101_voc_1-4.py.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/voc_full.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
