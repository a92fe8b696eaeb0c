# DeepLabV3+ on MobileNetV2, output stride 16: trains on two CPU cores.
_base_ = './deeplabv3plus_r101.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=1.0,
        strides=(1, 2, 2, 2, 1, 1, 1),
        dilations=(1, 1, 1, 1, 1, 2, 2),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN'),
    ),
    decode_head=dict(in_channels=[24, 320], channels=128, c1_channels=32, dilations=(6, 12, 18)),
)
