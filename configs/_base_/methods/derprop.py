# DerProp (arXiv 2508.02254) as its paper intends it; docs/options.md lists what the published program does instead.
_base_ = './derprop_model.py'
custom_hooks = [
    dict(type='PseudoLabelHook', alpha='linear', teacher_interval='epoch', teacher_momentum=0.5),
    dict(type='NonFiniteHook', action='stop'),
    dict(type='LogHistoryHook', length=1000),
]
