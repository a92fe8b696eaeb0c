# DeepLabV3+ with the published decoder on OpenMMLab's dilated ResNet-101 (stem 32-32-64), output stride 8. The
# published network has another stem: deeplabv3plus_r101_deepstem.py.
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
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        style='pytorch',
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet101_v1c'),
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
