"""Batches of any sizes, ids and numbers, on the way that the engine sends them: pipeline, sampler, check, step."""

import builders
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmseg.registry import TRANSFORMS
from mutations import mostly
from own_errors import cases, ends_well
from torch.utils.data import DataLoader

from mmseg_derprop.datasets import SemiSampler, semi_collate
from mmseg_derprop.engine.preflight import check_batch
from mmseg_derprop.models import SemiDataPreprocessor

PACK = dict(type='PackSemiInputs')
STRONG = [dict(type='StrongAugment'), dict(type='RandomCutMixBox', area=(0.02, 0.2), aspect=(0.01, 100)), PACK]
NAMES = ('branch', 'crop', 'num_unlabeled', 'num_labeled', 'num_classes', 'must', 'max_order', 'does not fit')


class Images:
    """Random images in memory; the labelled ones come first."""

    def __init__(self, sizes, ids, crop, ignored, num_classes, branches):
        cut = [dict(type='PadToCrop', size=crop), dict(type='RandomCrop', crop_size=crop)]
        views = {name: STRONG if name.startswith('strong') else [PACK] for name in branches}
        check = dict(type='CheckLabels', num_classes=num_classes)
        pipelines = [[check, *cut, dict(type='MultiBranch', sup=[PACK])], [*cut, dict(type='MultiBranch', **views)]]
        self.pipelines = [Compose([TRANSFORMS.build(step) for step in steps]) for steps in pipelines]
        self.sizes, self.ids, self.ignored = sizes, ids, ignored
        self.num_labeled = self.num_unlabeled = len(sizes)
        self.metainfo = {}

    def __getitem__(self, index):
        labeled, (height, width) = index < self.num_labeled, self.sizes[index % len(self.sizes)]
        rng = np.random.default_rng(index)
        results = dict(img=rng.integers(256, size=(height, width, 3), dtype=np.uint8), seg_fields=[])
        results |= dict(img_path=f'{index}.png', ori_shape=(height, width), img_shape=(height, width))
        key, values = ('gt_seg_map', self.ids) if labeled else ('ignore_map', self.ignored)
        results[key] = rng.choice(np.array(values, np.uint8), (height, width))
        results['seg_fields'].append(key)
        return self.pipelines[not labeled](results)


@cases(250)
@given(
    st.sampled_from(['derprop', 'derprop_paper', 'derprop_published', 'fixmatch', 'unimatch_v2']),
    mostly(st.integers(3, 5), st.just(2)),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    mostly(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=1), st.lists(st.integers(0, 255), min_size=1)),
    st.tuples(st.sampled_from([1, 2, 9, 33]), st.sampled_from([1, 2, 9, 33])),
    st.sampled_from([[0], [1], [0, 1]]),
    st.integers(1, 3),
    mostly(st.integers(2, 3), st.just(1)),
    mostly(st.none(), st.sampled_from(['weak', 'strong', 'strong_mix', 'strong2'])),
)
def test_a_step(preset, num_classes, sizes, ids, crop, ignored, labeled, unlabeled, missing):
    with ends_well(*NAMES):
        model = builders.build(preset, builders.segmentor(num_classes))
        branches = [name for name in model.branches if name not in ('sup', missing)]
        dataset = Images(sizes, ids, crop, ignored, num_classes, branches)
        sampler = SemiSampler(dataset, labeled, unlabeled, seed=0)
        loader = DataLoader(dataset, labeled + unlabeled, sampler=sampler, collate_fn=semi_collate)
        check_batch(model, loader)
        data = model.data_preprocessor(next(iter(loader)), True)
        losses = model(**data, mode='loss')
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values()), losses
        assert model.pseudo_labeler.tau.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


IMAGE = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda size: torch.zeros(3, *size, dtype=torch.uint8))
BRANCH = st.sampled_from(['sup', 'weak', 'strong'])


@cases(100)
@given(st.lists(st.dictionaries(BRANCH, IMAGE, min_size=1), max_size=4), st.none() | st.integers(1, 9))
def test_batches_that_do_not_match(items, divisor):
    base = dict(type='SegDataPreProcessor', size_divisor=divisor)
    with ends_well('labelled', 'branches', 'crops', 'images'):
        samples = [dict(inputs=item, data_samples={name: None for name in item}) for item in items]
        batch = semi_collate(samples)
        batch['data_samples'] = {name: None for name in batch['data_samples']}
        SemiDataPreprocessor(base)(batch, False)
