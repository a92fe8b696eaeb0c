"""Predictions of unlabelled images for tests of pseudo-labels."""

import torch

from mmseg_derprop.models import Prediction

K = 4


def prediction(seed=0, images=2, size=(6, 8), scale=3.0, share_ignored=0.2):
    """A random one, with some pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, K, *size, generator=generator)
    return Prediction.of(logits, torch.rand(images, *size, generator=generator) < share_ignored)


def flat(confidences, labels, ignored=()):
    """One image of one row with these confidences and labels."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), K).T[None, :, None].float()
    mask = torch.zeros(1, 1, len(labels), dtype=torch.bool)
    mask[..., list(ignored)] = True
    return Prediction(one_hot, mask, torch.tensor(confidences)[None, None], torch.tensor(labels)[None, None])


def parts_of(own):
    """The predictions of two images each."""
    return [own[torch.arange(first, first + 2)] for first in range(0, len(own.labels), 2)]
