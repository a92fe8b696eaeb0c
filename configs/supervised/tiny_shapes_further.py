# The supervised baseline of configs/derprop/tiny_shapes.py: the same further iterations, labelled images alone.
_base_ = [
    '../_base_/models/deeplabv3plus_tiny.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/shapes_further_600.py',
    '../_base_/supervised_runtime.py',
]
model = dict(data_preprocessor=dict(size=_base_.crop_size), decode_head=dict(num_classes=6))
