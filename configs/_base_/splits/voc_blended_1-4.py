# PASCAL VOC 2012, blended 1/4: 2,646 of the 10,582 images (labels: SegmentationClassAug), 7,936 unlabelled ones.
_base_ = ['../datasets/voc12_semi.py', '../schedules/voc12_80e.py']
epoch_length = 496  # iterations, with 4 unlabelled images on each of 4 GPUs
train_dataloader = dict(
    dataset=dict(
        labeled=dict(
            ann_file='ImageSets/Semi/blended_1_4/labeled.txt', data_prefix=dict(seg_map_path='SegmentationClassAug')
        ),
        unlabeled=dict(ann_file='ImageSets/Semi/blended_1_4/unlabeled.txt'),
    ),
)
train_cfg = dict(max_iters=80 * epoch_length, val_interval=epoch_length)
default_hooks = dict(checkpoint=dict(interval=epoch_length))
