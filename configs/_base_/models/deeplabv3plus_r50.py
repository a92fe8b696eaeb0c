# The published network on ResNet-50.
_base_ = './deeplabv3plus_r101.py'
model = dict(backbone=dict(depth=50, init_cfg=dict(checkpoint='checkpoints/resnet50_deepstem.pth')))
