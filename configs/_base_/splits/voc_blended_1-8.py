# PASCAL VOC 2012, blended 1/8: 1,323 of the 10,582 images (labels: SegmentationClassAug), 9,259 unlabelled ones.
_base_ = ['../datasets/voc12_semi.py', '../schedules/voc12_80e.py']
epoch_length = 579  # iterations, with 4 unlabelled images on each of 4 GPUs
train_dataloader = dict(
    dataset=dict(
        labeled=dict(
            ann_file='ImageSets/Semi/blended_1_8/labeled.txt', data_prefix=dict(seg_map_path='SegmentationClassAug')
        ),
        unlabeled=dict(ann_file='ImageSets/Semi/blended_1_8/unlabeled.txt'),
    ),
)
train_cfg = dict(max_iters=80 * epoch_length, val_interval=epoch_length)
default_hooks = dict(checkpoint=dict(interval=epoch_length))
