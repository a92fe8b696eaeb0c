# DerProp on CamVid at full resolution with ResNet-18, one GPU: 46 labelled and 321 unlabelled images.
#
#   python tools/train.py configs/derprop/r18_camvid_1-8.py --cfg-options data_root=data/camvid
#
# A study of ours, no published setting. efficientnet-lite0_camvid_1-32.py is the sibling that trains on two CPU cores.
_base_ = [
    '../_base_/models/deeplabv3plus_r18.py',
    '../_base_/splits/camvid_1-8.py',
    '../_base_/methods/derprop.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=11, **_base_.method)
