# The published network on MMSegmentation's own ResNet-101: stem 32-32-64, weights that download by themselves.
_base_ = './deeplabv3plus_r101.py'
model = dict(backbone=dict(stem_channels=64, init_cfg=dict(checkpoint='open-mmlab://resnet101_v1c')))
