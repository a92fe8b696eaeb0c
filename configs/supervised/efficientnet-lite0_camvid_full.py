# As efficientnet-lite0_camvid_1-32.py, with 367 labelled images.
_base_ = './efficientnet-lite0_camvid_1-32.py'
train_dataloader = dict(dataset=dict(ann_file='splits/train.txt'))
