# DerProp as its authors' program runs it, with every departure from its own intent (docs/options.md).
_base_ = './derprop_paper.py'
method = dict(
    propagation_head=dict(normalize='source', last_row=False),
    cutmix_partner='second_view',
    cutmix_predictor='teacher',
    cutmix_target=False,
    affinity_pairs='all',
    label_affinity='interpolated',
    label_affinity_grad=False,
    smoothness='softmax',
)
