# DerProp on Cityscapes 1/4: 744 labelled and 2,231 unlabelled images.
#
#   tools/dist_train.sh configs/derprop/r101_cityscapes_1-4.py 4
#
# The paper's setting, as far as it is known (the published file is broken; these are its parent's values):
# DeepLabV3+ on a dilated ResNet-101, crop 801, 2 labelled + 2 unlabelled images on each of 4 GPUs, 240 epochs
# of 279 iterations, SGD 0.005 for all parts, poly 0.9, online hard example mining on the labelled images.
# Differs from it: as r101_voc_1-4.py; evaluated in windows of 801 at a stride of 534, every 10 epochs.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/cityscapes_1-4.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=19, **_base_.method)
model['segmentor'].decode_head.loss_decode = _base_.ohem
model['segmentor'].test_cfg = _base_.slide
