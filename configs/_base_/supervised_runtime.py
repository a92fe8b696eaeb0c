# The runtime of supervised configs, with the hooks of a method that need no method. It is a file of its own because
# methods define custom_hooks, which no two bases may both do.
_base_ = './default_runtime.py'
custom_hooks = [
    dict(type='NonFiniteHook', action='stop'),
]
