# The supervised baseline of configs/derprop/r101_cityscapes_1-8.py: the same iterations on its 372 labelled images
# alone, 2 on each of 4 GPUs.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/cityscapes_240e_sup.py',
    '../_base_/supervised_runtime.py',
]
epoch_length = 326  # as the semi-supervised config's
model = dict(
    decode_head=dict(num_classes=19, loss_decode=dict(_delete_=True, **_base_.ohem)),
    data_preprocessor=dict(size=_base_.crop_size),
    test_cfg=dict(_delete_=True, **_base_.slide),
)
train_dataloader = dict(dataset=dict(ann_file='splits/1_8/labeled.txt'))
train_cfg = dict(max_iters=240 * epoch_length, val_interval=10 * epoch_length)
default_hooks = dict(checkpoint=dict(interval=10 * epoch_length))
