# 1,000 further iterations from a supervised checkpoint.
_base_ = './camvid_2k.py'
train_cfg = dict(max_iters=1000, val_interval=100)
optim_wrapper = dict(
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(lr=0.02),
)
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=100, save_best=['teacher/mIoU', 'student/mIoU']),
)
