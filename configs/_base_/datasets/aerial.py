# Aerial images of Dubai (Humans in the Loop, 2020), five classes, at half size; scored at full size. Labels alone.
data_root = 'data/aerial'
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
data = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(
        classes=['building', 'land', 'road', 'vegetation', 'water'],
        palette=[[60, 16, 152], [132, 41, 246], [110, 193, 228], [254, 221, 58], [226, 169, 41]],
    ),
    data_prefix=dict(img_path='images', seg_map_path='labels'),
)
labeled = dict(data, ann_file='splits/1_8/labeled.txt', pipeline=train_pipeline)
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=labeled,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data, ann_file='splits/val.txt', pipeline=test_pipeline, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
