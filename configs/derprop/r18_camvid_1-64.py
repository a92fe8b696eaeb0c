# DerProp on CamVid, 6 labelled and 361 unlabelled images; otherwise as r18_camvid_1-8.py.
_base_ = './r18_camvid_1-8.py'
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_64/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_64/unlabeled.txt'),
    ),
)
