# CamVid at half resolution with labelled and unlabelled images. A config names the two lists.
_base_ = './camvid_half.py'
geometry = _base_.train_pipeline[2:-1]
strong = [dict(type='StrongAugment'), dict(type='RandomCutMixBox'), dict(type='PackSemiInputs')]
load_unlabeled = [dict(type='LoadImageFromFile'), dict(type='LoadUnlabeledAnnotations')]
views = dict(type='MultiBranch', weak=[dict(type='PackSemiInputs')], strong=strong)
second_views = dict(type='MultiBranch', weak_mix=[dict(type='PackSemiInputs')], strong_mix=strong)
labeled_pipeline = [*_base_.train_pipeline[:-1], dict(type='MultiBranch', sup=[dict(type='PackSemiInputs')])]
unlabeled_pipeline = [*load_unlabeled, *geometry, views]
# For cutmix_partner='second_view': the same image, cropped and augmented anew.
two_view_pipeline = [
    *load_unlabeled,
    dict(type='MultiBranch', first=[*geometry, views], second=[*geometry, second_views]),
]
train_dataloader = dict(
    batch_size=8,
    sampler=dict(_delete_=True, type='SemiSampler', num_labeled=4, num_unlabeled=4),
    collate_fn=dict(type='semi_collate'),
    dataset=dict(
        _delete_=True,
        type='SemiDataset',
        labeled=dict(_base_.labeled, pipeline=labeled_pipeline),
        unlabeled=dict(
            type='UnlabeledDataset',
            data_root=_base_.data_root,
            ann_file='splits/1_8/unlabeled.txt',
            # The labels of unlabelled images serve the log's pseudo-label accuracy only.
            data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
            pipeline=unlabeled_pipeline,
        ),
    ),
)
