# cityscapes_240e.py for labelled images alone.
_base_ = './cityscapes_240e.py'
optim_wrapper = dict(constructor='DefaultOptimWrapperConstructor')
auto_scale_lr = dict(base_batch_size=4 * 2)
val_cfg = dict(type='ValLoop')
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
