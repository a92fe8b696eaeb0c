# DerProp (arXiv 2508.02254) as its paper intends it; docs/options.md lists what the published program does instead.
_base_ = './derprop_model.py'
custom_hooks = _base_.method_hooks
