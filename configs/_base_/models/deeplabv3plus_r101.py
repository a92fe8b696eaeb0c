# The published network: DeepLabV3+ on a dilated deep-stem ResNet-101, output stride 8.
norm_cfg = dict(type='BN')
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='ResNetV1c',
        depth=101,
        stem_channels=128,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        style='pytorch',
        norm_cfg=norm_cfg,
        norm_eval=False,
        # Converted by tools/model_converters/published2mmseg.py; mmengine can read no public URL of it.
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/resnet101_deepstem.pth'),
    ),
    decode_head=dict(
        type='DeepLabV3PlusHead',
        in_channels=[256, 2048],
        in_index=[0, 3],
        channels=256,
        num_classes=21,
        norm_cfg=norm_cfg,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
