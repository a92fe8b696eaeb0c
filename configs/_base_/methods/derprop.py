# DerProp (arXiv 2508.02254) as measured best, see docs/study.md: an averaged teacher labels, and the derivative's terms
# teach beside its labels. derprop_paper.py is the method as its paper intends it.
_base_ = './derprop_model.py'
custom_hooks = _base_.method_hooks
