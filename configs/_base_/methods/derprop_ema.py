# DerProp, labelled by UniMatch V2's teacher: an average of the student that moves with each step.
_base_ = './derprop_paper.py'
method = dict(labels_from='teacher')
custom_hooks = [
    dict(type='PseudoLabelHook', alpha='linear', teacher_interval='step', teacher_momentum=0.996),
    dict(type='NonFiniteHook', action='stop'),
    dict(type='BrokenFilesHook', limit=100),
]
