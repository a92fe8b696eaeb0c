# The hooks of every semi-supervised run. A config with hooks of its own joins them:
# custom_hooks = [*_base_.custom_hooks, *_base_.semi_hooks]
semi_hooks = [
    dict(type='PseudoLabelHook'),
    dict(type='NonFiniteHook'),
    dict(type='BrokenFilesHook', limit=100),
    dict(type='StrictLoadHook'),
    dict(type='ScheduleHook'),
]
