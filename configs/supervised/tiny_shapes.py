# A small network on the 24 labelled images of the embedded data set, from random weights. Semi-supervised
# training starts from it.
_base_ = [
    '../_base_/models/deeplabv3plus_tiny.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/shapes_800.py',
    '../_base_/supervised_runtime.py',
]
model = dict(data_preprocessor=dict(size=_base_.crop_size), decode_head=dict(num_classes=6))
