# Clothing Co-Parsing, halved, its classes merged to nine; docs/data.md says how. Labelled images only.
data_root = 'data/clothing'
crop_size = (161, 161)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomRescale', ratio_range=(0.5, 2.0)),
    dict(type='PadToCrop', size=crop_size),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
data = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(
        classes=['background', 'skin', 'hair', 'outer wear', 'top', 'dress', 'legs', 'shoes', 'bag'],
        palette=[
            [40, 40, 40],
            [240, 190, 150],
            [120, 70, 20],
            [60, 90, 200],
            [80, 180, 120],
            [220, 60, 140],
            [120, 120, 220],
            [230, 200, 40],
            [200, 60, 40],
        ],
    ),
    data_prefix=dict(img_path='images', seg_map_path='labels'),
)
labeled = dict(data, ann_file='splits/1_64/labeled.txt', pipeline=train_pipeline)
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
