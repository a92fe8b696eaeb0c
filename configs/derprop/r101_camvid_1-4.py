# DerProp on CamVid, 92 labelled and 275 unlabelled images, with the paper's network; otherwise as r18_camvid_1-8.py.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/camvid_1-4.py',
    '../_base_/methods/derprop.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=11, **_base_.method)
