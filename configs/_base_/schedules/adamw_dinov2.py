# How UniMatch V2 (arXiv 2410.10777) trains DINOv2: AdamW, the decoder at 40 times the backbone's rate, poly without
# warm-up. A config takes it by optim_wrapper = dict(_delete_=True, **_base_.adamw).
adamw = dict(
    type='OptimWrapper',
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-6, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=40.0))),
)
