# DerProp (arXiv 2508.02254) on PASCAL VOC 2012, the classic 1/4 split: 366 labelled and 10,216 unlabelled images.
#
#   tools/dist_train.sh configs/derprop/r101_voc_1-4.py 4
#
# Reproduces the paper's setting: DeepLabV3+ on a dilated deep-stem ResNet-101, crop 321, 4 labelled + 4 unlabelled
# images on each of 4 GPUs, 80 epochs of 639 iterations, SGD 0.001 (decoder and head x10), poly 0.9.
# Differs from it: the mended preset (r101_voc_1-4_published.py behaves as the authors' program), and mIoU is over whole
# images where the authors' program scores the central crop.
# Pretrained weights: the deep-stem ResNet-101 that the field uses has no public URL that mmengine can read. Convert it
# with tools/model_converters/published2mmseg.py to checkpoints/resnet101_deepstem.pth; r101v1c_voc_1-4.py needs none.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/voc_1-4.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
