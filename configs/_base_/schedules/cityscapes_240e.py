# The paper's schedule for Cityscapes: 240 epochs of the unlabelled images on 4 GPUs, one learning rate for all parts.
_base_ = './voc12_80e.py'
optim_wrapper = dict(optimizer=dict(lr=0.005), paramwise_cfg=None)
auto_scale_lr = dict(base_batch_size=4 * 4)
