# PASCAL VOC 2012, classic 1/4: 366 of the 1,464 finely labelled images, 10,216 unlabelled ones.
_base_ = ['../datasets/voc12_semi.py', '../schedules/voc12_80e.py']
epoch_length = 639  # iterations, with 4 unlabelled images on each of 4 GPUs
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='ImageSets/Semi/1_4/labeled.txt'),
        unlabeled=dict(ann_file='ImageSets/Semi/1_4/unlabeled.txt'),
    ),
)
train_cfg = dict(max_iters=80 * epoch_length, val_interval=epoch_length)
default_hooks = dict(checkpoint=dict(interval=epoch_length))
