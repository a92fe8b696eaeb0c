# Cityscapes with labelled and unlabelled images. A file of splits/ names the two lists.
_base_ = ['./cityscapes.py', './views.py']
geometry = _base_.train_pipeline[2:-1]
labeled_pipeline = [*_base_.train_pipeline[:-1], _base_.labeled_view]
unlabeled_pipeline = [*_base_.load_unlabeled, *geometry, _base_.views]
two_strong_pipeline = [*_base_.load_unlabeled, *geometry, _base_.two_strong_views]
# For model.cutmix.partner='second_view': the same image, cropped and augmented anew.
two_view_pipeline = [
    *_base_.load_unlabeled,
    dict(type='MultiBranch', first=[*geometry, _base_.views], second=[*geometry, _base_.second_views]),
]
two_view_two_strong_pipeline = [
    *_base_.load_unlabeled,
    dict(
        type='MultiBranch',
        first=[*geometry, _base_.two_strong_views],
        second=[*geometry, _base_.second_two_strong_views],
    ),
]
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='SemiSampler', num_labeled=2, num_unlabeled=2),
    collate_fn=dict(type='semi_collate'),
    dataset=dict(
        _delete_=True,
        type='SemiDataset',
        labeled=dict(_base_.labeled, pipeline=labeled_pipeline),
        unlabeled=dict(
            type='UnlabeledDataset',
            data_root=_base_.data_root,
            ann_file='splits/1_4/unlabeled.txt',
            img_suffix='_leftImg8bit.png',
            seg_map_suffix='_gtFine_labelTrainIds.png',
            # The labels of unlabelled images serve the log's pseudo-label accuracy only.
            data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
            pipeline=unlabeled_pipeline,
        ),
    ),
)
