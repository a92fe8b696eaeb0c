"""How logits are read from what a segmentor's decode heads give, found out before training starts."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from inspect import getsource
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmengine.utils import apply_to
from mmseg.models import BaseSegmentor
from torch import Tensor, nn

from ..ops import complementary_dropout2d
from .segmentors import FAILURES, check_heads, decode_heads, evaluating, has_own_loss, missing

# Above, propagation takes longer than a network of usual size: its time grows with the square of the positions.
MANY_POSITIONS = 128 * 128


class Reading(NamedTuple):
    """How logits are read from what a decode head makes of features.

    Attributes:
        key (Any): Of the output that the head's own prediction uses, where it gives several in training.
        asked (bool): Whether its ``predict`` is asked, as it is for its ``loss``, which it has of its own.
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

    def biased(self, prediction: Tensor, bias: Tensor) -> Tensor:
        """What a segmentor predicts, as it predicts it, with a bias (K,) of each class's logit."""
        bias = bias.to(prediction.dtype)[:, None, None]
        if self.shares:
            return prediction * bias.exp()
        return prediction + (bias if prediction.shape[1] > 1 else bias[1:] - bias[:1])


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
    size = (images.shape[2], images.shape[3])
    kind = images.device.type
    # Before PyTorch 2.10 training would take up the weights that autocast casts and keeps here, without a gradient.
    uncached = torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
    with evaluating(segmentor), torch.inference_mode(), uncached:
        logits = reading.logits(segmentor.encode_decode(images, image_metas(len(images), size)))
    logits = logits.clone()  # an ordinary tensor, which losses may keep for their backward pass
    return F.interpolate(logits, size, mode='bilinear', align_corners=segmentor.align_corners)


def image_metas(count: int, size: tuple[int, int]) -> list[dict]:
    """Meta data of images as they are: of one size (h, w), without padding."""
    size = (size[0], size[1])
    return [dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4) for _ in range(count)]


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Applies a function to each tensor in dicts, lists and tuples."""
    return apply_to(tree, lambda part: isinstance(part, Tensor), function)


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
    map_tensors(tensors.append, features)
    dropped = iter(complementary_dropout2d(tuple(tensors)))
    features = map_tensors(lambda _: next(dropped), features)
    return segmentor.neck(features) if segmentor.with_neck else features


def deepest(shapes: Sequence[tuple[int, int, int]]) -> int:
    """The feature along which labels propagate, of those of the shapes (channels, height, width).

    It is that of most channels; of several such the coarsest, which is the fastest, and of several such the last.
    """
    return max(range(len(shapes)), key=lambda i: (shapes[i][0], -shapes[i][1] * shapes[i][2], i))


def image_channels(segmentor: nn.Module) -> int:
    """Channels of the images that a segmentor takes: those of its first convolution, 3 if it has none."""
    return next((part.in_channels for part in segmentor.modules() if isinstance(part, nn.Conv2d)), 3)


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
                images = torch.randn(2, image_channels(twin), *size, device=device)
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
    gives: Any
    try:
        if has_own_loss(head):
            gives = head.predict(*given, image_metas(len(images), size), twin.test_cfg)
            if _is_map(gives):
                return [*earlier, Reading(asked=True, shares=bool((gives >= 0).all()))]
        else:
            gives = head(*given)
            if _is_map(gives):
                return [*earlier, Reading()]
            with suppress(*FAILURES):
                return [*earlier, Reading(_used_output(twin, images, earlier))]
    except (TypeError, AttributeError) as error:
        gives = error
    operators = missing('mmcv.ops') if 'mmcv.ops' in getsource(sys.modules[type(head).__module__]) else ''
    raise TypeError(
        f'{type(head).__name__} must give a map of logits (N, K, H, W), or predict one, but gives {gives!r:.200}.'
        f'{operators} Choose a head that classifies pixels, such as FCNHead, ASPPHead, UPerHead or SegformerHead.'
    )


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4


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
        if _is_map(value) and value.shape[1] == wanted.shape[1]:
            value = F.interpolate(value, size, mode='bilinear', align_corners=twin.align_corners)
            if (value - wanted).abs().max() <= 1e-3 * wanted.abs().max():
                return key
    raise LookupError


def evaluate_layers(module: nn.Module) -> None:
    """Puts normalisation and what has no parts in evaluation mode; heads and backbones go the way of training."""
    for part in module.modules():
        has_parts = next(part.children(), None) is not None
        part.training = has_parts and not isinstance(part, nn.modules.batchnorm._BatchNorm)
