# 500 further iterations from a supervised checkpoint (load_from), DerProp and its supervised baseline alike. The
# learning rate is low, so that the network keeps what it knows while the propagation head, which starts from nothing,
# learns.
_base_ = './camvid_2k.py'
train_cfg = dict(max_iters=500, val_interval=100)
optim_wrapper = dict(
    optimizer=dict(lr=0.005),
    paramwise_cfg=dict(custom_keys=dict(propagation_head=dict(lr_mult=10.0))),
)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
