# voc_1-8.py with crop 518, a multiple of a ViT's patches of 14.
_base_ = './voc_1-8.py'
crop_size = (518, 518)
geometry = _base_.geometry
geometry[1].size = geometry[2].crop_size = crop_size
labeled_pipeline = [*_base_.labeled_pipeline[:2], *geometry, _base_.labeled_view]
unlabeled_pipeline = [*_base_.load_unlabeled, *geometry, _base_.views]
two_strong_pipeline = [*_base_.load_unlabeled, *geometry, _base_.two_strong_views]
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
    dataset=dict(labeled=dict(pipeline=labeled_pipeline), unlabeled=dict(pipeline=unlabeled_pipeline)),
)
