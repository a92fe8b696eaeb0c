# adamw.py as MMSegmentation trains a self-supervised ViT (MAE): 1e-4 for the heads, x0.65 for each layer below. The
# constructor is mmpretrain's, which knows the layers of mmpretrain's backbones.
_base_ = './adamw.py'
adamw = dict(
    base_constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        _delete_=True,
        layer_decay_rate=0.65,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)},
    ),
)
