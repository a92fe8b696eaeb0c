# DerProp on 6 labelled and 361 unlabelled images of CamVid, half resolution, two CPU cores. It starts from the
# supervised baseline, configs/supervised/mobilenetv2_camvid_1-64.py (--cfg-options load_from=CHECKPOINT), because
# without pretrained weights the pseudo-labels of an untrained network are useless. docs/results/camvid.md.
_base_ = [
    '../_base_/models/deeplabv3plus_mobilenetv2.py',
    '../_base_/datasets/camvid_half_semi.py',
    '../_base_/methods/derprop_paper.py',
    '../_base_/schedules/camvid_further_500.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, num_classes=11, **_base_.method)
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_64/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_64/unlabeled.txt'),
    ),
)
optim_wrapper = dict(constructor='SemiOptimWrapperConstructor')
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(save_best=['teacher/mIoU', 'student/mIoU']))
