# 20,000 iterations on one GPU, from ImageNet weights.
_base_ = './camvid_2k.py'
train_cfg = dict(max_iters=20000, val_interval=1000)
optim_wrapper = dict(
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(lr=0.01),
)
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(interval=1000, save_best=['teacher/mIoU', 'student/mIoU']))
