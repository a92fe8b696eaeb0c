# 500 further iterations from a supervised checkpoint (load_from), of all methods and the supervised baseline alike. The
# propagation head has the network's rate: at ten times 0.01, ten times the paper's, its own loss can rise.
_base_ = './camvid_2k.py'
train_cfg = dict(max_iters=500, val_interval=100)
optim_wrapper = dict(optimizer=dict(lr=0.005))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
