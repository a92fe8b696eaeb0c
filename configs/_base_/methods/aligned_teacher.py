# The recommended preset (docs/study.md): UniMatch V2 with pseudo-labels that have the classes in their labelled shares,
# predictions in evaluation that are aligned in the same way, and no threshold. The unlabelled pipeline is the data
# config's two_strong_pipeline.
_base_ = './unimatch_v2.py'
method = dict(
    teacher=dict(momentum=0.99),
    pseudo_labels=dict(
        threshold=dict(value=0.0),
        alignment=dict(type='DistributionAlignment', rate=0.1, predict=True),
    ),
    views=dict(update_bn_on_strong=False),
    losses=dict(seg=dict(loss_weight=1.0), hard=dict(loss_weight=1.0)),
)
