# DerProp (arXiv 2508.02254) on PASCAL VOC 2012, the classic 1/4 split: 366 labelled and 10,216 unlabelled images.
#
#   tools/dist_train.sh configs/derprop/r101_voc_1-4.py 4
#
# The paper's setting: DeepLabV3+ on a dilated ResNet-101, crop 321, 4 labelled + 4 unlabelled images on each of 4 GPUs,
# 80 epochs of 639 iterations, SGD 0.001 (decoder and head x10), poly 0.9.
# Differs from it: OpenMMLab's ResNet-101, whose weights mmengine downloads, in place of the field's, which has a wider
# stem (r101-deepstem_voc_1-4.py); the mended preset (r101-deepstem_voc_1-4_published.py behaves as the authors'
# program); and mIoU is over whole images where the authors' program scores the central crop.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/voc_1-4.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
