# The paper's schedule for VOC: 80 epochs of the unlabelled images on 4 GPUs. A file of splits/ says how long an epoch
# is.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0), propagation_head=dict(lr_mult=10.0))),
)
auto_scale_lr = dict(enable=False, base_batch_size=4 * 8)  # what the learning rate is for: GPUs and images on each
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=51120, val_interval=639)
val_cfg = dict(type='TeacherStudentValLoop')
test_cfg = dict(type='TestLoop')
sync_bn = 'torch'  # takes effect with several processes
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='ExactCheckpointHook',
        by_epoch=False,
        interval=639,
        max_keep_ckpts=2,
        save_best=['teacher/mIoU', 'student/mIoU'],
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
