# The recommended preset on the embedded data set, 24 labelled and 400 unlabelled images of textured shapes: two CPU
# cores, minutes. It starts from configs/supervised/tiny_shapes.py (--cfg-options load_from=CHECKPOINT).
_base_ = [
    '../_base_/models/deeplabv3plus_tiny.py',
    '../_base_/datasets/shapes_semi.py',
    '../_base_/methods/aligned_teacher.py',
    '../_base_/schedules/shapes_further_600.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=6, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=_base_.two_strong_pipeline)))
optim_wrapper = dict(constructor='SemiOptimWrapperConstructor')
val_cfg = dict(type='TeacherStudentValLoop')
