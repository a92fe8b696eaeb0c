# The runtime of supervised configs: the hooks that need no unlabelled images.
_base_ = './default_runtime.py'
custom_hooks = [
    dict(type='NonFiniteHook'),
    dict(type='StrictLoadHook'),
    dict(type='ScheduleHook'),
]
