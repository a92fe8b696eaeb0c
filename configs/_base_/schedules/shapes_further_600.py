# 600 further iterations from a supervised checkpoint (load_from), DerProp and its supervised baseline alike.
_base_ = './shapes_800.py'
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=600, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
