"""Looks at model and data together before the first iteration."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..datasets import SemiDataset, SemiSampler
from ..datasets.checks.broken import BrokenData
from ..datasets.checks.labels import absent_classes
from ..models import Embedding, SemiSegmentor
from ..models.data_preprocessor import check_crops
from ..models.decoding import MANY_POSITIONS, decode
from ..models.statistics import PADDED
from ..utils.randomness import preserve_rng_state


def check_batch(model: SemiSegmentor, dataloader: DataLoader) -> None:
    """Loads a labelled and an unlabelled sample, and raises ValueError unless training steps can be made of such."""
    sampler = dataloader.sampler
    if not isinstance(sampler, SemiSampler):
        raise TypeError(
            f'train_dataloader.sampler must be a SemiSampler, but is a {type(sampler).__name__}. A batch needs '
            "labelled and unlabelled images: sampler=dict(type='SemiSampler', num_labeled=..., num_unlabeled=...)."
        )
    batch_size = sampler.num_labeled + sampler.num_unlabeled
    if dataloader.batch_size != batch_size:
        raise ValueError(
            f'train_dataloader.batch_size must be {batch_size}, the sum of num_labeled={sampler.num_labeled} and '
            f'num_unlabeled={sampler.num_unlabeled} of its sampler, but is {dataloader.batch_size}.'
        )
    dataset = sampler.dataset
    with preserve_rng_state():
        samples = [dataset[0], dataset[dataset.num_labeled]]
    inputs = {branch: image for sample in samples for branch, image in branches_of(sample).items()}
    _check_branches(model, inputs, samples[1]['data_samples'])
    if sampler.num_unlabeled == 1 and model.cutmix.partner != 'second_view' and 'strong' in model.needs:
        raise ValueError(
            'train_dataloader.sampler.num_unlabeled must be at least 2, but is 1: a single image has no partner in its '
            "batch for CutMix. Raise it, or set model.cutmix=dict(partner='second_view', predictor='teacher')."
        )
    _warn_of_fine_grid(model, (inputs['weak'].shape[-2], inputs['weak'].shape[-1]), batch_size + sampler.num_unlabeled)
    _warn_of_small_batches(model, sampler)
    alone = [name for name in ('num_labeled', 'num_unlabeled') if getattr(sampler, name) == 1]
    if 'num_unlabeled' in alone or (alone and not (model.needs_weak_forward and model.views.joint_forward)):
        _check_single_image(model, inputs['weak'], alone[-1])


def branches_of(item: dict) -> dict[str, torch.Tensor]:
    """Images of an item by branch; raises ValueError if it has none."""
    branches = item.get('inputs')
    if not isinstance(branches, dict):
        raise ValueError(
            f'A pipeline must give inputs by branch, but gives {", ".join(map(str, item))}. End it in MultiBranch(sup='
            '[...]) or MultiBranch(weak=[...], strong=[...]), each branch in PackSemiInputs.'
        )
    return branches


def check_classes(model: SemiSegmentor, dataset: SemiDataset, absent: str) -> None:
    """Raises ValueError unless model and labels have the same classes; ``absent``, for one without a labelled pixel."""
    classes, number = dataset.metainfo.get('classes') or (), model.num_classes
    if classes and len(classes) != number:
        raise ValueError(
            f'model.num_classes must be {len(classes)}, the number of classes of the data, but is {number}. Set it.'
        )
    found = dataset.label_counts.nonzero()[0].tolist()
    if outside := [label for label in found if label >= number and label not in (model.ignore_index, PADDED)]:
        raise ValueError(
            f'Labels must be from 0 to {number - 1}, or {model.ignore_index} for ignored, but there are {outside}. Set '
            'num_classes and ignore_index of the heads, or map the labels (reduce_zero_label or classes of the data).'
        )
    problem = absent_classes(dataset.label_counts, classes, model.ignore_index)
    if problem and absent == 'error':
        raise ValueError(str(problem))
    if problem:
        print_log(str(problem), logger='current', level=logging.WARNING)


def _warn_of_small_batches(model: SemiSegmentor, sampler: SemiSampler) -> None:
    few = [name for name in ('num_labeled', 'num_unlabeled') if getattr(sampler, name) < 4]
    norms = [part for part in model.student.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if few and any(part.training for part in norms) and get_world_size() == 1:
        text = f'{" and ".join(few)} of train_dataloader.sampler should be at least 4: batch normalisation of fewer '
        text += 'images is unsteady, and scores may fall below the supervised baseline. Raise them, with smaller crops '
        text += "if memory is short, or set norm_eval=True of the backbone, or norm_cfg=dict(type='GN', ...)."
        print_log(text, logger='current', level=logging.WARNING)


def _check_branches(model: SemiSegmentor, inputs: dict[str, torch.Tensor], unlabeled: dict) -> None:
    """Whether the pipelines make what the model reads, in crops of one size."""
    missing = [branch for branch in model.branches if branch not in inputs]
    if missing:
        raise ValueError(
            f'The pipelines must make the branches {", ".join(model.branches)}, but make {", ".join(inputs)}. Make '
            f'{", ".join(missing)} with MultiBranch; the data configs have a two_view_pipeline for '
            "model.cutmix.partner='second_view', a two_strong_pipeline for model.views.num_strong=2, and a "
            'two_view_two_strong_pipeline for both.'
        )
    sizes = {branch: [(image.shape[-2], image.shape[-1])] for branch, image in inputs.items()}
    check_crops(sizes, model.data_preprocessor.base)
    without_box = [name for name in model.strong_branches if 'cutmix_box' not in unlabeled[name].metainfo]
    if 'ignore_map' not in unlabeled['weak'] or without_box:
        raise ValueError(
            'The unlabelled pipeline must begin with LoadUnlabeledAnnotations, have RandomCutMixBox in its strong '
            'branches and pack with PackSemiInputs, but its samples lack the ignore map or the CutMix box. Add '
            'what is missing.'
        )


def _warn_of_fine_grid(model: SemiSegmentor, size: tuple[int, int], images: int) -> None:
    """Says how long propagation takes where its grid is fine, from the time of a small one."""
    head = model.propagation_head
    if head is None:
        return
    side, feature = 48, model.probed.shapes[head.in_index]
    height, width = (round(feature[i + 1] * size[i] / model.probed.size[i]) for i in (0, 1))
    if height * width <= MANY_POSITIONS:
        return
    device = next(head.parameters()).device
    with torch.random.fork_rng(devices=[]):
        q, k = torch.randn(2, 1, head.num_classes, side**2, device=device).requires_grad_()
        for _ in range(2):  # the first is slow
            start = time.perf_counter()
            loss = head.propagate(Embedding(q, k, (side, side)), q.unflatten(2, (side, side))).sum()
            torch.autograd.grad(loss, (q, k))[0].sum().item()
            seconds = (time.perf_counter() - start) * (height * width / side**2) ** 2 * images
    print_log(
        f'Labels propagate over {height}x{width} = {height * width} positions, all compared with all: about '
        f'{seconds:.0f} seconds an iteration. A coarser feature is faster: model.propagation_head.in_index is '
        f'{head.in_index}, and the features have (channels, height, width) {model.probed.shapes} for images of '
        f'{model.probed.size}.',
        'current',
        logging.WARNING,
    )


def _check_single_image(model: SemiSegmentor, image: torch.Tensor, option: str) -> None:
    twin = copy.deepcopy(model.student).train()
    device = next(twin.parameters()).device
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            size = (image.shape[-2], image.shape[-1])
            decode(twin, twin.extract_feat(torch.zeros(1, *image.shape, device=device)), model.probed.readings, size)
    except ValueError as error:
        raise ValueError(
            f'{option} = 1: one image in a forward pass is too few for the normalisation in this network ({error}): '
            f'set {option} to 2 or more, or replace batch normalisation behind its image pooling (norm_cfg=dict('
            "type='GN', num_groups=32) or, on several GPUs, SyncBN)."
        ) from error


def check_validation(runner: Runner) -> None:
    """Validates the first image; raises ValueError if it cannot be, or has no score that a hook or schedule watches."""
    loop: Any = runner.val_loop
    if loop is None:
        return
    schedulers: Any = runner.param_schedulers or []
    schedulers = sum(schedulers.values(), []) if isinstance(schedulers, dict) else schedulers
    watched: dict[str, str] = {}
    for part in (*runner.hooks, *(each for each in schedulers if getattr(each, 'need_val_args', False))):
        for option in ('monitor', 'save_best'):
            names = getattr(part, option, None) or []
            names = [names] if isinstance(names, str) else names
            watched |= dict.fromkeys(names, f'{type(part).__name__}.{option}')
    watched.pop('auto', None)
    scores = _first_scores(loop)
    if scores is None:
        if watched:
            runner.logger.warning(f'Whether scores are called {", ".join(watched)} could not be found out.')
        return
    networks = list(getattr(loop, 'evaluators', ()))
    for name, place in watched.items():
        network, _, score = name.rpartition('/')
        if score not in scores or network not in ('', *networks):
            behind = f', alone or behind {"/ or ".join(networks)}/' if networks else ''
            known = f'a score of the validation ({", ".join(scores)}){behind}'
            raise ValueError(f'{place} must be {known}, but is {name!r}. Name one of these.')


def _first_scores(loop: Any) -> list[str] | None:
    """Names of the scores of a validation loop, from its first image; None if this one is too few for them."""
    model, dataset, processed = loop.runner.model, loop.dataloader.dataset, False
    evaluator, mode = copy.deepcopy(loop.evaluator), model.training
    for metric in evaluator.metrics:
        vars(metric).update(output_dir=None)  # where it would write predictions
    logging.disable(logging.WARNING)  # metrics would print these scores
    try:
        with preserve_rng_state(), torch.no_grad():
            batch = loop.dataloader.collate_fn([dataset[0]])
            evaluator.process(model.eval().val_step(batch), batch)
            processed = True
            return list(evaluator.evaluate(1))
    except BrokenData:
        raise
    except Exception as error:  # of any part of the user's
        if processed:
            return None
        raise ValueError(
            f'The first image cannot be validated: {error!r}. Compare val_dataloader with its pipeline, val_evaluator '
            "and the segmentor's test_cfg."
        ) from error
    finally:
        model.train(mode)
        logging.disable(logging.NOTSET)
