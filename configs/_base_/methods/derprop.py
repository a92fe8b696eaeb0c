# DerProp (arXiv 2508.02254) whose labels come from an EMA teacher that moves with each step, with a forward of its own
# for the weak views (docs/study.md). derprop_paper.py is the method as its paper has it.
_base_ = './derprop_paper.py'
method = dict(
    teacher=dict(momentum=0.99, interval='step'),
    pseudo_labels=dict(source='teacher'),
    views=dict(joint_forward=False, update_bn_on_strong=False),
)
