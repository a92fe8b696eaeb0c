# DeepLabV3+ on a narrow ResNet-18, output stride 8, from random weights: for small images and two CPU cores.
_base_ = './deeplabv3plus_r101.py'
model = dict(
    backbone=dict(type='ResNetV1c', depth=18, stem_channels=32, base_channels=32, init_cfg=None),
    decode_head=dict(in_channels=[32, 256], channels=64, c1_channels=24, dilations=(2, 4, 6)),
)
