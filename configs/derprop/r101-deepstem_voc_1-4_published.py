# As r101_voc_1-4.py, on the paper's own network and with everything as the authors' program does it (docs/options.md).
_base_ = [
    '../_base_/models/deeplabv3plus_r101_deepstem.py',
    '../_base_/splits/voc_1-4.py',
    '../_base_/methods/derprop_published.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=_base_.two_view_pipeline)))
