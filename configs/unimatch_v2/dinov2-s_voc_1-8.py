# UniMatch V2 (arXiv 2410.10777) in its own setting: DINOv2 ViT-S with a DPT head on VOC 2012, the classic 1/8
# split (183 labelled images), crop 518, AdamW, 60 epochs, 4 GPUs.
_base_ = [
    '../_base_/models/dpt_dinov2-s.py',
    '../_base_/splits/voc_1-8_518.py',
    '../_base_/methods/unimatch_v2.py',
    '../_base_/schedules/adamw_dinov2.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=_base_.two_strong_pipeline)))
train_cfg = dict(max_iters=60 * _base_.epoch_length)
optim_wrapper = dict(_delete_=True, **_base_.adamw)
