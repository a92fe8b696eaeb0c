# As mobilenetv2_camvid_1-32.py, with everything as the authors' program does it (docs/options.md).
_base_ = './mobilenetv2_camvid_1-64_published.py'
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_32/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_32/unlabeled.txt'),
    ),
)
