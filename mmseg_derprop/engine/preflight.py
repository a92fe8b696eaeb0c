"""Looks at model and data together before the first iteration."""

from __future__ import annotations

import copy

import torch
from torch.utils.data import DataLoader

from ..datasets import SemiSampler
from ..datasets.collate import branches_of
from ..models import SemiSegmentor
from ..models.data_preprocessor import check_crops
from ..models.segmentors import decode
from ..utils.randomness import preserve_rng_state


def check_batch(model: SemiSegmentor, dataloader: DataLoader) -> None:
    """Loads one labelled and one unlabelled sample, and checks that a training step can be made of such.

    The random generators are put back, so training goes on as if this had not been.

    Args:
        model (SemiSegmentor): The model.
        dataloader (DataLoader): With a :class:`SemiSampler`.

    Raises:
        ValueError: If branches are missing, crops differ, labels lie outside the classes, or one unlabelled image
            per process is too few for CutMix or for the network's normalisation.
        TypeError: If the sampler is another one.
    """
    sampler = dataloader.sampler
    if not isinstance(sampler, SemiSampler):
        raise TypeError(
            f'train_dataloader.sampler is a {type(sampler).__name__}, but a batch needs labelled and unlabelled '
            "images: sampler=dict(type='SemiSampler', num_labeled=..., num_unlabeled=...)."
        )
    batch_size = sampler.num_labeled + sampler.num_unlabeled
    if dataloader.batch_size != batch_size:
        raise ValueError(
            f'train_dataloader.batch_size = {dataloader.batch_size}, but its sampler takes {sampler.num_labeled} '
            f'labelled and {sampler.num_unlabeled} unlabelled images: set batch_size={batch_size}.'
        )
    dataset = sampler.dataset
    with preserve_rng_state():
        samples = [dataset[0], dataset[dataset.num_labeled]]
    inputs = {branch: image for sample in samples for branch, image in branches_of(sample).items()}
    missing = [branch for branch in model.branches if branch not in inputs]
    if missing:
        raise ValueError(
            f'The pipelines make the branches {", ".join(inputs)}, but the model also reads {", ".join(missing)}: '
            'make them with MultiBranch. The data configs have a two_view_pipeline for '
            "cutmix.partner='second_view', and a two_strong_pipeline for views.num_strong=2."
        )
    sizes = {branch: [(image.shape[-2], image.shape[-1])] for branch, image in inputs.items()}
    check_crops(sizes, model.data_preprocessor.base)
    branches = samples[1]['data_samples']
    without_box = [name for name in model.strong_branches if 'cutmix_box' not in branches[name].metainfo]
    if 'ignore_map' not in branches['weak'] or without_box:
        raise ValueError(
            'The unlabelled pipeline leaves out the ignore map or the CutMix box: it must begin with '
            'LoadUnlabeledAnnotations, have RandomCutMixBox in its strong branches, and pack with PackSemiInputs.'
        )
    classes = dataset.metainfo.get('classes')
    if classes and len(classes) != model.num_classes:
        raise ValueError(
            f'The data have {len(classes)} classes, but the segmentor has {model.num_classes}: set num_classes='
            f'{len(classes)} of the SemiSegmentor.'
        )
    labels = samples[0]['data_samples']['sup'].gt_sem_seg.data.unique()
    outside = [i for i in labels.tolist() if not 0 <= i < model.num_classes and i != model.ignore_index]
    if outside:
        raise ValueError(
            f'{samples[0]["data_samples"]["sup"].img_path} has the labels {outside}, but the segmentor has '
            f'{model.num_classes} classes (0 to {model.num_classes - 1}) and ignores {model.ignore_index}: set '
            "num_classes and ignore_index of its heads, or map the labels (the dataset's reduce_zero_label or classes)."
        )
    if sampler.num_unlabeled == 1 and model.cutmix.partner != 'second_view':
        raise ValueError(
            'One unlabelled image per process has no partner in its batch to cut-mix with: set num_unlabeled to 2 or '
            "more, or model.cutmix.partner='second_view' with predictor='teacher'."
        )
    alone = [name for name in ('num_labeled', 'num_unlabeled') if getattr(sampler, name) == 1]
    if 'num_unlabeled' in alone or (alone and not (model.needs_weak_forward and model.views.joint_forward)):
        _check_single_image(model, inputs['weak'], alone[-1])


def _check_single_image(model: SemiSegmentor, image: torch.Tensor, option: str) -> None:
    twin = copy.deepcopy(model.student).train()
    device = next(twin.parameters()).device
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            decode(twin, tuple(twin.extract_feat(torch.zeros(1, 3, *image.shape[-2:], device=device))))
    except ValueError as error:
        raise ValueError(
            f'{option} = 1: one image in a forward pass is too few for the normalisation in this network ({error}): '
            f'set {option} to 2 or more, or replace batch normalisation behind its image pooling (norm_cfg=dict('
            "type='GN', num_groups=32) or, on several GPUs, SyncBN)."
        ) from error
