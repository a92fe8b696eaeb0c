# UniMatch (arXiv 2208.09910) on Cityscapes 1/8, 372 labelled images: network, data and schedule of
# ../derprop/r101_cityscapes_1-8.py, so that the methods compare; its paper's own settings differ.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/splits/cityscapes_1-8.py',
    '../_base_/methods/unimatch.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=19, **_base_.method)
model['segmentor'].decode_head.loss_decode = _base_.ohem
model['segmentor'].test_cfg = _base_.slide
# Its paper takes every label on Cityscapes, whatever its confidence.
model['pseudo_labels'] = dict(source='student', threshold=dict(type='FixedThreshold', value=0.0))
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=_base_.two_strong_pipeline)))
