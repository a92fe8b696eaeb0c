# Supervised baseline on 11 labelled images of CamVid from ImageNet weights, half resolution, two CPU cores.
_base_ = [
    '../_base_/models/deeplabv3plus_efficientnet-lite0.py',
    '../_base_/datasets/camvid_half.py',
    '../_base_/schedules/camvid_2k.py',
    '../_base_/supervised_runtime.py',
]
# As on Cityscapes; with plain cross entropy signs, poles and people are learnt late.
ohem = dict(type='OhemCrossEntropyLoss', thresh=0.7, min_kept=10000)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=11, loss_decode=dict(_delete_=True, **ohem)),
)
train_dataloader = dict(dataset=dict(ann_file='splits/1_32/labeled.txt'))
optim_wrapper = dict(type='BFloat16OptimWrapper')
train_cfg = dict(max_iters=1500, val_interval=500)
