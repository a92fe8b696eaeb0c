# How MMSegmentation trains SegFormer (Swin too, without the heads' x10): AdamW, warm-up, poly 1.0. A config takes it by
#   optim_wrapper = dict(_delete_=True, **_base_.adamw)
#   param_scheduler = _base_.warmup_poly
adamw = dict(
    type='OptimWrapper',
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys=dict(
            absolute_pos_embed=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
            head=dict(lr_mult=10.0),  # decode_head, auxiliary_head and propagation_head
        )
    ),
)
warmup_poly = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500),
]
