# The ceiling: all 367 labelled images of CamVid, half resolution, two CPU cores.
_base_ = './mobilenetv2_camvid_1-64.py'
train_dataloader = dict(dataset=dict(ann_file='splits/train.txt'))
