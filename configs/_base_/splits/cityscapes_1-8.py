# Cityscapes 1/8: 372 labelled and 2,603 unlabelled images. Evaluated every 10 epochs.
_base_ = ['../datasets/cityscapes_semi.py', '../schedules/cityscapes_240e.py']
epoch_length = 326  # iterations, with 2 unlabelled images on each of 4 GPUs
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_8/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_8/unlabeled.txt'),
    ),
)
train_cfg = dict(max_iters=240 * epoch_length, val_interval=10 * epoch_length)
default_hooks = dict(checkpoint=dict(interval=10 * epoch_length))
