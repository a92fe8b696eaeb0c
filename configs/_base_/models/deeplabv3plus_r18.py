# DeepLabV3+ on ResNet-18, output stride 8: small enough for one GPU and full-resolution street scenes.
_base_ = './deeplabv3plus_r101.py'
model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(checkpoint='open-mmlab://resnet18_v1c'),
    ),
    decode_head=dict(in_channels=[64, 512], channels=128, c1_channels=32),
)
