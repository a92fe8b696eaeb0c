# DerProp on 11 labelled and 356 unlabelled images of CamVid; otherwise as mobilenetv2_camvid_1-64.py.
_base_ = './mobilenetv2_camvid_1-64.py'
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_32/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_32/unlabeled.txt'),
    ),
)
