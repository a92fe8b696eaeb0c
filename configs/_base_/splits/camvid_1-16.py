# CamVid 1/16: 23 labelled and 344 unlabelled images, 20,000 iterations on one GPU.
_base_ = ['../datasets/camvid_semi.py', '../schedules/camvid_20k.py']
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_16/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_16/unlabeled.txt'),
    ),
)
