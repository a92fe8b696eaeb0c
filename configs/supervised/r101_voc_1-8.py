# The supervised baseline of configs/derprop/r101_voc_1-8.py: the same iterations on its 183 labelled images alone, 4 on
# each of 4 GPUs.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/datasets/voc12.py',
    '../_base_/schedules/voc12_80e_sup.py',
    '../_base_/supervised_runtime.py',
]
epoch_length = 650  # as the semi-supervised config's
model = dict(data_preprocessor=dict(size=_base_.crop_size))
train_dataloader = dict(dataset=dict(ann_file='ImageSets/Semi/1_8/labeled.txt'))
train_cfg = dict(max_iters=80 * epoch_length, val_interval=epoch_length)
default_hooks = dict(checkpoint=dict(interval=epoch_length))
