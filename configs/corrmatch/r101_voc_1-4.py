# CorrMatch (arXiv 2306.04300) on VOC 2012, the classic 1/4 split, 366 labelled images: network, data and schedule of
# ../derprop/r101_voc_1-4.py, so that the methods compare; its paper's own settings differ.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/voc_1-4.py',
    '../_base_/methods/corrmatch.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
