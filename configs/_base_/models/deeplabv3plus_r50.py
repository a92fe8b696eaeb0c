# As deeplabv3plus_r101.py, on ResNet-50.
_base_ = './deeplabv3plus_r101.py'
model = dict(backbone=dict(depth=50, init_cfg=dict(checkpoint='open-mmlab://resnet50_v1c')))
