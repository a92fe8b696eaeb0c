# DerProp as its authors' program runs it, with every departure from its own intent (docs/options.md). The unlabelled
# pipeline is the data config's two_view_pipeline.
_base_ = './derprop_paper.py'
method = dict(
    propagation_head=dict(normalize='source'),
    pseudo_labels=dict(regions=dict(type='RegionsWithoutLastRow')),
    cutmix=dict(partner='second_view', predictor='teacher'),
    losses=dict(
        affinity_x=dict(type='InterpolatedLabelAffinityLoss'),
        kl=dict(type='UnmixedConsistencyLoss'),
        soft=dict(type='UnmixedConsistencyLoss'),
        affinity_u=dict(type='AllPairsAffinityLoss'),
        smooth=dict(type='ConstantSmoothness'),
        smooth_w=dict(type='ConstantSmoothness'),
        smooth_s=dict(type='ConstantSmoothness'),
    ),
)
