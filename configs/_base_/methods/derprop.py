# DerProp (arXiv 2508.02254) with what makes its propagation hurt less (docs/study.md): its head learns alone at
# first, an EMA teacher labels, and weak views have a forward of their own. derprop_paper.py is the method as its paper
# has it.
_base_ = './derprop_paper.py'
method = dict(
    propagation_head=dict(warmup=50),
    teacher=dict(momentum=0.99, interval='step'),
    pseudo_labels=dict(source='teacher'),
    views=dict(joint_forward=False, update_bn_on_strong=False),
    losses=dict(
        seg=dict(loss_weight=1.0),
        seg_prop=dict(loss_weight=0.1),
        affinity_x=dict(loss_weight=0.1),
        kl=dict(loss_weight=0.5),
        soft=dict(loss_weight=0.5),
        fp=dict(loss_weight=0.5),
        prop_s=dict(loss_weight=0.05),
        prop_w=dict(loss_weight=0.05),
        affinity_u=dict(loss_weight=0.1),
        smooth=dict(loss_weight=0.025),
        smooth_w=dict(loss_weight=0.025),
        smooth_s=dict(loss_weight=0.05),
    ),
)
