# adamw.py as MMSegmentation trains ConvNeXt-T: 1e-4 for the heads, x0.9 for each stage below. num_layers is 12 for B.
_base_ = './adamw.py'
adamw = dict(
    base_constructor='LearningRateDecayOptimizerConstructor',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(_delete_=True, decay_rate=0.9, decay_type='stage_wise', num_layers=6),
)
