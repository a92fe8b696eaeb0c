# CamVid 1/4: 92 labelled and 275 unlabelled images, 20,000 iterations on one GPU.
_base_ = ['../datasets/camvid_semi.py', '../schedules/camvid_20k.py']
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_4/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_4/unlabeled.txt'),
    ),
)
