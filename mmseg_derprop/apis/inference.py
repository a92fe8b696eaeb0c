"""Predictions on images that belong to no data set: what the tools for people share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.structures import PixelData
from mmseg.apis import init_model
from mmseg.datasets import BaseSegDataset
from mmseg.models import BaseSegmentor
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..datasets.checks.broken import file_problem
from ..engine.hooks.strict_load_hook import CheckpointMismatch, check_fit
from ..models import SemiSegmentor
from ..models.step import View
from ..utils.checkpoints import read_checkpoint, state_dict_of
from ..utils.config import type_name
from ..utils.safe_loading import CheckpointNotRead
from .image_files import ImageFile


class ImageDataset(Dataset):
    """Images through the pipeline of a test, as :func:`inference_pipeline` gives it.

    An item is a dict of ``image`` and either ``data``, what the pipeline makes, or ``error``, why there is none: one
    broken file must not end a long run.
    """

    def __init__(self, images: Sequence[ImageFile], pipeline: list[dict]) -> None:
        init_default_scope('mmseg')
        self.images = images
        self.pipeline = Compose(pipeline)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        image = self.images[index]
        if problem := file_problem(image.path):  # as in training: some decoders make up what is cut off
            return dict(image=image, error=problem.cause)
        try:
            return dict(image=image, data=self.pipeline(dict(img_path=image.path)))
        except Exception as error:  # each decoder raises its own
            return dict(image=image, error=' '.join(f'{type(error).__name__}: {error}'.split()))


def inference_pipeline(config: Config, tta: bool = False) -> list[dict]:
    """The config's pipeline for tests, or its ``tta_pipeline``, without the annotations that it loads.

    Raises:
        ValueError: If the config has none.
    """
    if tta:
        name, pipeline = 'tta_pipeline', config.get('tta_pipeline')
    else:
        dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
        name, pipeline = 'test_dataloader.dataset.pipeline', dataset.get('pipeline') or config.get('test_pipeline')
    if not pipeline:
        raise ValueError(f'{config.filename} has no {name}, which says how images are loaded and resized: add it')
    return _without_annotations(pipeline)


def _without_annotations(part: Any) -> Any:
    """A pipeline, a step or the alternatives of TestTimeAug; None for what has nothing left."""
    if isinstance(part, (list, tuple)):
        return [step for step in map(_without_annotations, part) if step]
    kind = type_name(part)
    if kind.startswith('Load') and 'Annotation' in kind:
        return None
    return {**part, 'transforms': _without_annotations(part['transforms'])} if 'transforms' in part else part


def load_segmentor(
    config: Config, checkpoint: str, device: str = 'cpu', predict_on: str | None = None
) -> tuple[BaseSegmentor, dict]:
    """Builds the segmentor of a config and loads a checkpoint, of this package or of plain MMSegmentation.

    The segmentor's ``dataset_meta`` has ``classes`` and ``palette``: the checkpoint's, else those of the config's test
    data, else numbers and drawn colours. ``predict_on`` is ``'teacher'`` or ``'student'`` of a SemiSegmentor.

    Returns:
        tuple[BaseSegmentor, dict]: The segmentor in evaluation mode, and what the checkpoint holds.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If the model has no such network, or the checkpoint does not fit or is damaged.
    """
    if predict_on and type_name(config.model) != 'SemiSegmentor':
        raise ValueError(f'--predict-on chooses a network of a SemiSegmentor; this model is a {config.model.type}')
    if predict_on:
        config.model.predict_on = predict_on
    if 'data_preprocessor' in config:  # as the runner does
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    model = init_model(config, device='cpu')
    needed = [f'{model.predict_on}.'] if hasattr(model, 'predict_on') else ['']
    remote = '://' in checkpoint
    try:
        loaded = CheckpointLoader.load_checkpoint(checkpoint, 'cpu') if remote else read_checkpoint(checkpoint)
        # The engine would only warn of what does not fit, and go on with random weights.
        check_fit(model, state_dict_of(loaded), needed)
    except CheckpointMismatch as error:
        raise ValueError(f'{checkpoint} does not fit the model of the config. {error}') from None
    except ValueError as error:
        raise CheckpointNotRead(f'{checkpoint}: {error}') from None
    meta = loaded.get('meta')
    model.dataset_meta = _dataset_meta(config, meta if isinstance(meta, dict) else {}, model.num_classes)
    return model.to(device), loaded


def _dataset_meta(config: Config, meta: dict, num_classes: int) -> dict:
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
    sources: list[Any] = [
        meta.get('dataset_meta'),
        dict(classes=meta.get('CLASSES'), palette=meta.get('PALETTE')),  # MMSegmentation 0.x
        {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})},
        dict(classes=range(num_classes)),
    ]
    found: Any = next(s for s in sources if isinstance(s, dict) and len(s.get('classes') or ()) == num_classes)
    classes, palette = [str(name) for name in found['classes']], found.get('palette')
    if np.shape(palette) != (num_classes, 3):  # a data set without files draws a palette for its classes
        palette = BaseSegDataset(metainfo=dict(classes=classes), lazy_init=True).metainfo['palette']
    return dict(classes=classes, palette=np.asarray(palette).tolist())


@torch.no_grad()
def label_logits(model: SemiSegmentor, sample: dict) -> tuple[Tensor, View]:
    """Logits (1, K, H, W) of which a model makes the labels of a sample of a test pipeline, and the student's view.

    The view is embedded if there is a propagation head; both are of the image's size without padding.
    """
    data = model.data_preprocessor(dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]), False)
    height, width = sample['inputs'].shape[-2:]
    inputs = data['inputs'][..., :height, :width]
    view = model.forward_view(inputs, embed=model.propagation_head is not None).view
    from_teacher = model.pseudo_labeler.source == 'teacher'
    return (model.logits_of(model.teacher, inputs) if from_teacher else view.logits), view


class MeanProbabilityTTA(BaseTTAModel):
    """Test-time augmentation that keeps the mean probabilities.

    MMSegmentation's SegTTAModel keeps the labels only. Here ``seg_logits`` is the logarithm of the mean, of which the
    softmax is the mean again. The segmentor must have an output channel for each class.
    """

    def merge_preds(self, data_samples_list: list) -> list[SegDataSample]:
        """Merges the predictions of each image's augmentations."""
        merged = []
        for samples in data_samples_list:
            mean: Tensor = sum(s.seg_logits.data.float().softmax(0) for s in samples) / len(samples)
            sample = SegDataSample(metainfo=samples[0].metainfo)
            sample.seg_logits = PixelData(data=mean.log())
            sample.pred_sem_seg = PixelData(data=mean.argmax(0, keepdim=True))
            merged.append(sample)
        return merged


def confidence(sample: SegDataSample) -> Tensor:
    """Probability (H, W) float32 that a prediction, ``seg_logits`` (K, H, W), gives to its own labels.

    MMSegmentation has taken the sigmoid of a single channel already.
    """
    logits = sample.seg_logits.data.float()
    if len(logits) == 1:
        return torch.where(sample.pred_sem_seg.data[0].bool(), logits[0], 1 - logits[0])
    return logits.softmax(0).amax(0)


@torch.no_grad()
def predict(
    model: BaseModel, dataset: ImageDataset, batch_size: int = 1, workers: int = 0
) -> Iterator[tuple[ImageFile, SegDataSample | None, str]]:
    """Predicts images in their order, by a segmentor or its test-time augmentation.

    Up to ``batch_size`` images of one size that follow each other go through the network together.

    Yields:
        tuple[ImageFile, SegDataSample | None, str]: The image; its prediction at its own size, or None and why it
        could not be loaded.
    """
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=list, worker_init_fn=_one_thread)
    for batch in loader:
        for _, group in groupby(batch, key=_size):
            items = list(group)
            if 'error' in items[0]:
                yield from ((item['image'], None, item['error']) for item in items)
                continue
            samples = model.test_step(pseudo_collate([item['data'] for item in items]))
            yield from ((item['image'], sample, '') for item, sample in zip(items, samples))


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)


def _size(item: dict) -> tuple | None:
    """What images of a batch must have in common: their size, that of each augmentation; None without image."""
    if 'error' in item:
        return None
    inputs = item['data']['inputs']
    return tuple(tuple(i.shape) for i in (inputs if isinstance(inputs, list) else [inputs]))
