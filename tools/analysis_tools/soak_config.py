# What soak.py trains if no config is named: everything of configs/derprop/tiny_shapes_paper.py, on a network and crops
# that make a step as short as it gets.
_base_ = '../../configs/derprop/tiny_shapes_paper.py'
crop = (33, 33)
geometry = [
    dict(type='RandomRescale', ratio_range=(0.75, 1.5)),
    dict(type='PadToCrop', size=crop),
    dict(type='RandomCrop', crop_size=crop),
    dict(type='RandomFlip', prob=0.5),
]
train_dataloader = dict(
    batch_size=4,
    sampler=dict(num_labeled=2, num_unlabeled=2),
    dataset=dict(
        labeled=dict(pipeline=[*_base_.train_pipeline[:2], *geometry, _base_.labeled_view]),
        unlabeled=dict(pipeline=[*_base_.load_unlabeled, *geometry, _base_.views]),
    ),
)
model = dict(
    segmentor=dict(
        backbone=dict(
            num_stages=2,
            strides=(1, 2),
            dilations=(1, 1),
            out_indices=(0, 1),
            stem_channels=8,
            base_channels=8,
            contract_dilation=False,
        ),
        decode_head=dict(
            _delete_=True,
            type='FCNHead',
            in_channels=16,
            channels=8,
            num_convs=1,
            concat_input=False,
            num_classes=6,
            norm_cfg=dict(type='BN'),
            align_corners=True,
            loss_decode=dict(type='PixelCrossEntropyLoss'),
        ),
    ),
    propagation_head=dict(channels=16, num_regions=8),
)
train_cfg = dict(val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
log_level = 'WARNING'
