"""What the README tells a newcomer to write works as written."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

import mmseg_derprop  # noqa: F401  (registers the parts)

ROOT = Path(__file__).resolve().parents[2]
STOCK = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'


def test_own_config(tmp_path, shapes):
    """The lines of the README make a stock config semi-supervised; its data are read, and its model is built."""
    init_default_scope('mmseg')
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)
    (own,) = (block for block in blocks if 'my_segformer.py' in block)
    assert len(own.splitlines()) <= 25
    lists = 'ImageSets/Segmentation'
    (tmp_path / 'my_segformer.py').write_text(
        f'_base_ = {STOCK!r}\n'
        "prefix = dict(img_path='JPEGImages', seg_map_path='SegmentationClass')\n"
        f'train_dataloader = dict(dataset=dict(data_root={str(shapes)!r}, data_prefix=prefix))\n'
    )
    own = own.replace('labeled.txt', f'{lists}/labeled.txt').replace('path/to/images', f'{lists}/unlabeled.txt')
    (tmp_path / 'own.py').write_text(own)
    config = Config.fromfile(tmp_path / 'own.py')
    assert config.train_cfg.type == 'IterBasedTrainLoop'
    assert [hook.type for hook in config.custom_hooks].count('PseudoLabelHook') == 1
    assert config.optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult == 10  # the base's
    model = config.model.to_dict()
    model['segmentor'].update(pretrained=None)
    model['segmentor']['backbone'].pop('init_cfg', None)
    model = MODELS.build(model)
    assert model.num_classes == 150 and model.propagation_head is None
    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert (dataset.num_labeled, dataset.num_unlabeled) == (4, 12)
    assert dataset.metainfo['reduce_zero_label'] and len(dataset.metainfo['classes']) == 150
    assert dataset[0]['inputs']['sup'].shape == dataset[4]['inputs']['strong'].shape == (3, 512, 512)


PAGES = [page for place in ('*.md', 'docs/**/*.md', 'configs/*/*.md') for page in sorted(ROOT.glob(place))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\((?!https?://)([^)#]+)', page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
