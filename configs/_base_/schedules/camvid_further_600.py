# 600 further iterations from a supervised checkpoint (load_from), DerProp and its supervised twin alike.
_base_ = './camvid_2k.py'
train_cfg = dict(max_iters=600, val_interval=100)
optim_wrapper = dict(constructor='SemiOptimWrapperConstructor')
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=100, save_best=['teacher/mIoU', 'student/mIoU']),
)
