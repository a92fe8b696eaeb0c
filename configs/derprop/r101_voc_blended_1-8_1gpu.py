# r101_voc_blended_1-8.py on one GPU with the same 4 + 4 images: a quarter of the learning rate, 80 epochs of 4 times
# as many iterations. Batch statistics are of one GPU's images, and the threshold moves 4 times as often.
_base_ = './r101_voc_blended_1-8.py'
epoch_length = 2315
optim_wrapper = dict(optimizer=dict(lr=0.001 / 4))
auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(max_iters=80 * epoch_length, val_interval=epoch_length)
default_hooks = dict(checkpoint=dict(interval=epoch_length))
