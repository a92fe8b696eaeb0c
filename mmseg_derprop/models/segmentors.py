"""What a segmentor must be to learn from unlabelled images, and how its logits are read."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from inspect import getsource
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmseg.models import BaseSegmentor
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss, cross_entropy
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..ops import complementary_dropout2d

# What parts of any kind raise at a network that cannot work.
FAILURES = (RuntimeError, AssertionError, ValueError, LookupError, TypeError, AttributeError)

# Above, propagation takes longer than a network of usual size: its time grows with the square of the positions.
MANY_POSITIONS = 128 * 128


class Reading(NamedTuple):
    """How logits are read from what a decode head makes of features.

    Attributes:
        key (Any): Of the output that the head's own prediction uses, where it gives several in training.
        asked (bool): Whether its ``predict`` is asked, since no output of its forward pass is a map of logits.
        shares (bool): Whether it predicts scores that are never negative, as mask classifiers do. Their logarithms
            are logits whose softmax is a class's share of the scores.
    """

    key: Any = None
    asked: bool = False
    shares: bool = False

    def logits(self, output: Any) -> Tensor:
        """Logits (N, K, h, w); of a single channel z, which a sigmoid would take, 0 and z."""
        scores = output if isinstance(output, Tensor) else output[self.key]
        if self.shares:
            scores = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        return scores if scores.shape[1] > 1 else torch.cat([torch.zeros_like(scores), scores], 1)


class Decoded(NamedTuple):
    """Logits (N, K, h, w) of a decode head, and what its forward pass gave, which its loss reads; None if not run."""

    logits: Tensor
    output: Any


class Probe(NamedTuple):
    """What :func:`probe` finds out: (channels, height, width) of each feature, and the reading of each decode head.

    The features are those of images of ``size`` (h, w).
    """

    shapes: list[tuple[int, int, int]]
    readings: list[Reading]
    size: tuple[int, int]

    def grid(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of a feature of images of another size."""
        height, width = self.shapes[index][1:]
        return round(height * size[0] / self.size[0]), round(width * size[1] / self.size[1])


def build_segmentor(config: dict) -> BaseSegmentor:
    """Builds a segmentor; raises ValueError, which names parts of packages that are not installed."""
    try:
        segmentor = MODELS.build(config)
    except (ImportError, *FAILURES) as error:
        packages = sorted({name.partition('.')[0] for name in _types(config) if '.' in name})
        raise ValueError(f'model.segmentor cannot be built: {error}.{"".join(map(_missing, packages))}') from error
    for part in segmentor.modules():
        if isinstance(part, CrossEntropyLoss) and part.class_weight is not None and part.cls_criterion is cross_entropy:
            part.avg_non_ignore = False  # it fails with both; its mean with weights is over labelled pixels in any case
    return segmentor


def _missing(package: str) -> str:
    """A sentence if a package cannot be imported."""
    try:
        import_module(package)
    except ImportError as error:
        return f' It has parts of {package}, which cannot be imported: {error}.'
    return ''


def _types(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if isinstance(part.get('type'), str):
            yield part['type']
        part = list(part.values())
    for value in part if isinstance(part, (list, tuple)) else ():
        yield from _types(value)


def decode_heads(segmentor: BaseSegmentor) -> list[Any]:
    """The decode heads of a segmentor, several if it is a cascade, the final one last."""
    head = segmentor.decode_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def decode(segmentor: BaseSegmentor, features: Any, readings: list[Reading], size: tuple[int, int]) -> list[Decoded]:
    """What each decode head makes of what ``extract_feat`` gave of images of a size (h, w), the final one last."""
    decoded: list[Decoded] = []
    for head, reading in zip(decode_heads(segmentor), readings):
        given = [features, *(stage.output for stage in decoded[-1:])]
        if reading.asked:
            metas = image_metas(len(feature_maps(features)[0]), size)
            decoded.append(Decoded(reading.logits(head.predict(*given, metas, segmentor.test_cfg)), None))
        else:
            output = head(*given)
            decoded.append(Decoded(reading.logits(output), output))
    return decoded


def predict_logits(segmentor: BaseSegmentor, images: Tensor, reading: Reading) -> Tensor:
    """Logits (N, K, H, W) that a segmentor itself predicts in evaluation mode."""
    with evaluating(segmentor), torch.inference_mode():
        metas = image_metas(len(images), (images.shape[2], images.shape[3]))
        logits = reading.logits(segmentor.encode_decode(images, metas))
    return logits.clone()  # an ordinary tensor, which losses may keep for their backward pass


def image_metas(count: int, size: tuple[int, int]) -> list[dict]:
    """Meta data of images as they are: of one size (h, w), without padding."""
    size = (size[0], size[1])
    return [dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4) for _ in range(count)]


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Applies a function to each tensor in dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)([map_tensors(function, value) for value in tree])
    return tree


def feature_maps(features: Any) -> tuple[Tensor, ...]:
    """The map (N, C, h, w) of each feature; a vision transformer's may have its class token beside it."""
    several = (features,) if isinstance(features, Tensor) else features
    return tuple(feature if isinstance(feature, Tensor) else feature[0] for feature in several)


def with_dropped_channels(features: Any, ratio: float) -> Any:
    """Features (2 N, ...) of images and, behind them, of the same with channels dropped (UniMatch)."""

    def both(feature: Tensor) -> Tensor:
        drop = F.dropout2d if feature.ndim == 4 else F.dropout
        return torch.cat([feature, drop(feature, ratio)])

    return map_tensors(both, features)


def extract_complementary(segmentor: BaseSegmentor, images: Tensor) -> Any:
    """As ``extract_feat``, with complementary channels of the backbone's features for the two halves of the images."""
    features = segmentor.backbone(images)
    tensors: list[Tensor] = []
    map_tensors(lambda feature: tensors.append(feature) or feature, features)  # type: ignore[func-returns-value]
    dropped = iter(complementary_dropout2d(tuple(tensors)))
    features = map_tensors(lambda _: next(dropped), features)
    return segmentor.neck(features) if segmentor.with_neck else features


def deepest(shapes: Sequence[tuple[int, int, int]]) -> int:
    """The feature along which labels propagate, of those of the shapes (channels, height, width).

    It is that of most channels; of several such the coarsest, which is the fastest, and of several such the last.
    """
    return max(range(len(shapes)), key=lambda i: (shapes[i][0], -shapes[i][1] * shapes[i][2], i))


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """While it lasts, forward passes leave the running statistics of batch normalisation as they are."""
    momenta = {part: part.momentum for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
    for part in momenta:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, momentum in momenta.items():
            part.momentum = momentum


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """While it lasts, a module is in evaluation mode; afterwards each of its parts is in that which it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def evaluate_layers(module: nn.Module) -> None:
    """Puts normalisation and what has no parts in evaluation mode; heads and backbones go the way of training."""
    for part in module.modules():
        has_parts = next(part.children(), None) is not None
        part.training = has_parts and not isinstance(part, nn.modules.batchnorm._BatchNorm)


def check_heads(segmentor: BaseSegmentor) -> None:
    """Raises unless the heads of a segmentor classify the same classes; one with a loss of its own may learn others."""
    if not segmentor.with_decode_head:
        raise TypeError(f'{type(segmentor).__name__} has no decode_head, but labels are propagated along its logits.')
    *stages, final = decode_heads(segmentor)
    if final.num_classes < 2:
        raise ValueError(
            f'num_classes of {type(final).__name__} must be at least 2, but is {final.num_classes}. For foreground and '
            'background set num_classes=2; out_channels may be 1.'
        )
    _check_class_weights(segmentor)
    for head in stages + [head for head in auxiliary_heads(segmentor) if not has_own_loss(head)]:
        for name in ('num_classes', 'ignore_index'):
            ours, theirs = getattr(head, name, None), getattr(final, name, None)
            if ours != theirs:
                raise ValueError(
                    f'{type(head).__name__} has {name} = {ours}, but the final decode head has {theirs}: give all '
                    'heads the same (for classes, num_classes of the SemiSegmentor).'
                )


def _check_class_weights(segmentor: BaseSegmentor) -> None:
    for head in segmentor.modules():
        losses: Any = getattr(head, 'loss_decode', None) if isinstance(head, BaseDecodeHead) else None
        for loss in losses if isinstance(losses, nn.ModuleList) else [losses]:
            weights = getattr(loss, 'class_weight', None)
            if weights is not None and len(weights) != head.num_classes:
                raise ValueError(
                    f'class_weight of {type(loss).__name__} in {type(head).__name__} must have {head.num_classes} '
                    f'numbers, one a class, but has {len(weights)}. Give one for each class, or leave it out.'
                )


def auxiliary_heads(segmentor: BaseSegmentor) -> list[Any]:
    """The auxiliary heads of a segmentor, none, one or several."""
    heads: Any = segmentor.auxiliary_head if segmentor.with_auxiliary_head else []
    return list(heads) if isinstance(heads, (list, nn.ModuleList)) else [heads]


def has_own_loss(head: Any, by_feat: bool = True) -> bool:
    """Whether a head's ``loss``, or with ``by_feat`` its ``loss_by_feat``, is not MMSegmentation's base class's."""
    if getattr(type(head), 'loss', None) not in (BaseDecodeHead.loss, BaseCascadeDecodeHead.loss):
        return True
    return by_feat and type(head).loss_by_feat is not BaseDecodeHead.loss_by_feat


def probe(segmentor: BaseSegmentor) -> Probe:
    """Finds out what a new segmentor gives, from running a copy of it in training mode on two images of noise.

    The copy keeps the segmentor's batch statistics, and the generators are put back, so nothing moves.
    """
    check_heads(segmentor)
    # Synchronised normalisation refuses to run before the model is on its GPU.
    twin = revert_sync_batchnorm(copy.deepcopy(segmentor))
    device = next(twin.parameters()).device
    # A network of fixed image size gets its second chance at the crop size.
    sizes = [(64, 64), getattr(segmentor.data_preprocessor, 'size', None)]
    channels, failure = None, None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for size in filter(None, sizes):
            try:
                images = torch.randn(2, 3, *size, device=device)
                features = twin.train().extract_feat(images)
                maps = feature_maps(features)
                if not all(isinstance(feature, Tensor) and feature.ndim == 4 for feature in maps):
                    kinds = ', '.join(type(feature).__name__ for feature in features)
                    raise TypeError(
                        f'{type(segmentor).__name__}.extract_feat must give (N, C, h, w) feature maps, but gives '
                        f"{kinds}. Vision transformers of mmpretrain give them with out_type='featmap'."
                    )
                channels = [feature.shape[1] for feature in maps]
                shapes = [(f.shape[1], f.shape[2], f.shape[3]) for f in maps]
                return Probe(shapes, _readings(twin, images, features), (size[0], size[1]))
            except (RuntimeError, AssertionError, ValueError, IndexError) as error:
                failure = error
    given = f'; the features have {channels} channels' if channels else ''
    raise ValueError(
        f'The segmentor cannot predict images of {size[0]}x{size[1]}{given}: {type(failure).__name__}: {failure}. '
        'Check in_index and in_channels of its heads, or set size of its data_preprocessor to the crop size.'
    ) from failure


def _readings(twin: BaseSegmentor, images: Tensor, features: Any) -> list[Reading]:
    """How each decode head of a segmentor is read; it is left in another mode."""
    *stages, head = decode_heads(twin)
    size = (images.shape[2], images.shape[3])
    earlier = [Reading()] * len(stages)
    given = [features, *(stage.output for stage in decode(twin, features, earlier, size)[-1:])]
    try:
        output = head(*given)
    except TypeError as error:  # it wants more than features
        output = error
    if isinstance(output, Tensor) and output.ndim == 4:
        return [*earlier, Reading()]
    if isinstance(output, (list, tuple, Mapping)):
        with suppress(*FAILURES):
            return [*earlier, Reading(_used_output(twin, images, earlier))]
    try:
        scores = head.predict(*given, image_metas(len(images), size), twin.test_cfg)
    except FAILURES as error:
        scores = error
    if isinstance(scores, Tensor) and scores.ndim == 4:
        return [*earlier, Reading(asked=True, shares=bool((scores >= 0).all()))]
    operators = _missing('mmcv.ops') if 'mmcv.ops' in getsource(sys.modules[type(head).__module__]) else ''
    raise TypeError(
        f'{type(head).__name__} must give a map of logits (N, K, H, W), or predict one, but gives '
        f'{type(output).__name__} and predicts {scores!r:.200}.{operators} Choose a head that classifies pixels, such '
        'as FCNHead, ASPPHead, UPerHead or SegformerHead.'
    )


def _used_output(twin: BaseSegmentor, images: Tensor, earlier: list[Reading]) -> Any:
    """The key of the final head's output in training that equals its own prediction; LookupError if there is none.

    Layers are in evaluation mode for both, so that they differ in nothing else.
    """
    size = (images.shape[2], images.shape[3])
    evaluate_layers(twin)
    features = twin.extract_feat(images)
    output = decode_heads(twin)[-1](features, *(d.output for d in decode(twin, features, earlier, size)[-1:]))
    wanted = twin.eval().encode_decode(images, image_metas(len(images), size))
    for key, value in output.items() if isinstance(output, Mapping) else enumerate(output):
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == wanted.shape[1]:
            value = F.interpolate(value, size, mode='bilinear', align_corners=twin.align_corners)
            if (value - wanted).abs().max() <= 1e-3 * wanted.abs().max():
                return key
    raise LookupError
