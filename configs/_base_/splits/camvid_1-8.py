# CamVid 1/8: 46 labelled and 321 unlabelled images, 20,000 iterations on one GPU.
_base_ = ['../datasets/camvid_semi.py', '../schedules/camvid_20k.py']
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_8/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_8/unlabeled.txt'),
    ),
)
