# The recommended preset on 11 labelled and 356 unlabelled images of CamVid, half resolution, two CPU cores, as in
# docs/study.md. It starts from the supervised baseline (--cfg-options load_from=CHECKPOINT),
# configs/supervised/efficientnet-lite0_camvid_1-32.py.
_base_ = [
    '../_base_/models/deeplabv3plus_efficientnet-lite0.py',
    '../_base_/datasets/camvid_half_semi.py',
    '../_base_/methods/aligned_teacher.py',
    '../_base_/schedules/camvid_further_500.py',
    '../_base_/default_runtime.py',
]
ohem = dict(type='OhemCrossEntropyLoss', thresh=0.7, min_kept=10000)
segmentor = dict(_base_.model, decode_head=dict(_base_.model.decode_head, loss_decode=ohem))
model = dict(_delete_=True, segmentor=segmentor, num_classes=11, **_base_.method)
train_dataloader = dict(
    dataset=dict(
        labeled=dict(ann_file='splits/1_32/labeled.txt'),
        unlabeled=dict(ann_file='splits/1_32/unlabeled.txt', pipeline=_base_.two_strong_pipeline),
    ),
)
train_cfg = dict(max_iters=400, val_interval=200)
optim_wrapper = dict(type='BFloat16OptimWrapper', constructor='SemiOptimWrapperConstructor', optimizer=dict(lr=0.01))
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(save_best=['teacher/mIoU', 'student/mIoU']))
