# CamVid at half resolution, 240x180, for training on a CPU. Predictions are scored at full resolution.
_base_ = './camvid.py'
crop_size = (161, 161)
halve = dict(type='Resize', scale_factor=0.5, keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    halve,
    dict(type='RandomRescale', ratio_range=(0.5, 2.0)),
    dict(type='PadToCrop', size=crop_size),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), halve, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
labeled = dict(pipeline=train_pipeline)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
