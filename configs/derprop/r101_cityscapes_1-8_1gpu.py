# r101_cityscapes_1-8.py on one GPU with the same 2 + 2 images: a quarter of the learning rate, 240 epochs of 4 times
# as many iterations. Batch statistics are of one GPU's images, and the threshold moves 4 times as often.
_base_ = './r101_cityscapes_1-8.py'
epoch_length = 1302
optim_wrapper = dict(optimizer=dict(lr=0.005 / 4))
auto_scale_lr = dict(base_batch_size=4)
train_cfg = dict(max_iters=240 * epoch_length, val_interval=10 * epoch_length)
default_hooks = dict(checkpoint=dict(interval=10 * epoch_length))
