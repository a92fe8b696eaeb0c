# MMSegmentation's PSPNet (arXiv 1612.01105) on ResNet-50, output stride 8.
_base_ = './sepaspp_r50v1c.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='PSPHead',
        in_channels=2048,
        in_index=3,
        channels=512,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
)
