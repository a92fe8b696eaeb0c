# FixMatch (arXiv 2001.07685) on the embedded data set, otherwise as ../derprop/tiny_shapes.py.
_base_ = [
    '../_base_/models/deeplabv3plus_tiny.py',
    '../_base_/datasets/shapes_semi.py',
    '../_base_/methods/fixmatch.py',
    '../_base_/schedules/shapes_further_600.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=6, **_base_.method)
optim_wrapper = dict(constructor='SemiOptimWrapperConstructor')
val_cfg = dict(type='TeacherStudentValLoop')
