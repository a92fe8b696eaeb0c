# DPT on DINOv2 ViT-S/14, as UniMatch V2 (arXiv 2410.10777) has it; the backbone is mmpretrain's. Crops must be
# multiples of 14; in evaluation images are padded to such (its program resizes them).
_base_ = './upernet_dinov2-s.py'
model = dict(
    backbone=dict(drop_path_rate=0.0),
    neck=dict(_delete_=True, type='PairWithTokens'),
    decode_head=dict(
        _delete_=True,
        type='DPTHead',
        in_channels=[384] * 4,
        in_index=[0, 1, 2, 3],
        input_transform='multiple_select',
        embed_dims=384,
        post_process_channels=[48, 96, 192, 384],
        readout_type='ignore',
        patch_size=14,
        channels=64,
        num_classes=21,
        norm_cfg=_base_.norm_cfg,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    auxiliary_head=None,
)
