# The supervised baseline of configs/derprop/mobilenetv2_camvid_1-64.py: the same further iterations, labelled images
# alone.
_base_ = [
    '../_base_/models/deeplabv3plus_mobilenetv2.py',
    '../_base_/datasets/camvid_half.py',
    '../_base_/schedules/camvid_further_500.py',
    '../_base_/supervised_runtime.py',
]
model = dict(data_preprocessor=dict(size=_base_.crop_size), decode_head=dict(num_classes=11))
train_dataloader = dict(dataset=dict(ann_file='splits/1_64/labeled.txt'))
