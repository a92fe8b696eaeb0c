"""Optimisers of semi-supervised models are built as those of the plain segmentor."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SemiOptimWrapperConstructor:
    """Lets a constructor see the student as if it stood alone, and the propagation head beside it.

    Parameter names are the plain segmentor's (``backbone.``, ``decode_head.``), so that constructors which match
    them, such as layer-wise decay, work; the teacher is not among them. A backbone that tells the depth of its layers
    (``get_layer_depth``, as mmpretrain's do) is asked for it, as in mmpretrain's classifiers. ``base_constructor`` of
    the optimiser wrapper's config names the constructor to use, by default mmengine's DefaultOptimWrapperConstructor.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        config = dict(optim_wrapper_cfg)
        name = config.pop('base_constructor', 'DefaultOptimWrapperConstructor')
        self.base = OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(type=name, optim_wrapper_cfg=config, paramwise_cfg=paramwise_cfg)
        )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        semi: Any = model.module if is_model_wrapper(model) else model
        trained: Any = nn.Module()
        for name, child in semi.student.named_children():
            trained.add_module(name, child)
        if semi.propagation_head is not None:
            trained.add_module('propagation_head', semi.propagation_head)
        layer_depth = getattr(getattr(trained, 'backbone', None), 'get_layer_depth', None)
        if layer_depth is not None:
            trained.get_layer_depth = partial(layer_depth, prefix='backbone.')
        return self.base(trained)
