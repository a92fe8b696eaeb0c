# The hooks of every semi-supervised run. A config with hooks of its own joins them:
# custom_hooks = [*_base_.custom_hooks, *_base_.semi_hooks]
semi_hooks = [
    dict(type='PseudoLabelHook'),
    dict(type='NonFiniteHook'),
    dict(type='BrokenFilesHook', limit=100),
    dict(type='StrictLoadHook'),
    dict(type='ScheduleHook'),
]
# The terms of the loss are means over the log's window, as the loss is; what moves or is a share is as it is.
semi_log = dict(mean_pattern=r'^(?!.*lr$|alpha|threshold|confident|accepted|region|accuracy|broken|replaced)')
