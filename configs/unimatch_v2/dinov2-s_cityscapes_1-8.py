# UniMatch V2 (arXiv 2410.10777) in its own setting: DINOv2 ViT-S with a DPT head on Cityscapes 1/8, 372 labelled,
# crop 798, OHEM of 200,000 pixels, AdamW, 180 epochs, 4 GPUs.
_base_ = [
    '../_base_/models/dpt_dinov2-s.py',
    '../_base_/splits/cityscapes_1-8_798.py',
    '../_base_/methods/unimatch_v2.py',
    '../_base_/schedules/adamw_dinov2.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=19, **_base_.method)
model['segmentor'].decode_head.loss_decode = dict(type='OhemCrossEntropyLoss', thresh=0.7, min_kept=200_000)
model['segmentor'].test_cfg = dict(mode='slide', crop_size=(798, 798), stride=(532, 532))
train_cfg = dict(max_iters=180 * _base_.epoch_length)
optim_wrapper = dict(_delete_=True, **_base_.adamw)
