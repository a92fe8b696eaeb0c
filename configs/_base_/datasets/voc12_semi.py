# PASCAL VOC 2012 with the field's split lists (docs/data.md says how to get them), crop 321.
data_root = 'data/VOCdevkit/VOC2012'
crop_size = (321, 321)
geometry = [
    dict(type='RandomRescale', ratio_range=(0.5, 2.0)),
    dict(type='PadToCrop', size=crop_size),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
]
strong = [dict(type='StrongAugment'), dict(type='RandomCutMixBox'), dict(type='PackSemiInputs')]
load_unlabeled = [dict(type='LoadImageFromFile'), dict(type='LoadUnlabeledAnnotations')]
views = dict(type='MultiBranch', weak=[dict(type='PackSemiInputs')], strong=strong)
second_views = dict(type='MultiBranch', weak_mix=[dict(type='PackSemiInputs')], strong_mix=strong)
labeled_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    *geometry,
    dict(type='MultiBranch', sup=[dict(type='PackSemiInputs')]),
]
unlabeled_pipeline = [*load_unlabeled, *geometry, views]
# For cutmix_partner='second_view': the same image, cropped and augmented anew.
two_view_pipeline = [
    *load_unlabeled,
    dict(type='MultiBranch', first=[*geometry, views], second=[*geometry, second_views]),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SemiSampler', num_labeled=4, num_unlabeled=4),
    collate_fn=dict(type='semi_collate'),
    dataset=dict(
        type='SemiDataset',
        labeled=dict(
            type='PascalVOCDataset',
            data_root=data_root,
            ann_file='ImageSets/Semi/1_4/labeled.txt',
            data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
            pipeline=labeled_pipeline,
        ),
        unlabeled=dict(
            type='UnlabeledDataset',
            data_root=data_root,
            ann_file='ImageSets/Semi/1_4/unlabeled.txt',
            # The labels of unlabelled images serve the log's pseudo-label accuracy only; they may be missing.
            data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
            pipeline=unlabeled_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
