"""What the README tells a newcomer to write works as written."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS, TRANSFORMS

import mmseg_derprop  # noqa: F401  (registers the parts)

ROOT = Path(__file__).resolve().parents[2]
STOCK = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'


def test_own_config(tmp_path):
    init_default_scope('mmseg')
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)
    (own,) = (block for block in blocks if 'my_segformer.py' in block)
    (tmp_path / 'my_segformer.py').write_text(f'_base_ = {STOCK!r}\n')
    (tmp_path / 'own.py').write_text(own.replace("'configs/", f"'{ROOT}/configs/"))
    config = Config.fromfile(tmp_path / 'own.py')
    assert config.train_cfg.type == 'IterBasedTrainLoop' and config.custom_hooks[0].type == 'PseudoLabelHook'
    model = config.model.to_dict()
    model['segmentor'].update(pretrained=None)
    model['segmentor']['backbone'].pop('init_cfg', None)
    model = MODELS.build(model)
    assert model.num_classes == 150 and model.propagation_head.in_channels == 256
    for source in ('labeled', 'unlabeled'):
        for transform in config.train_dataloader.dataset[source].pipeline:
            TRANSFORMS.build(transform)
    assert config.train_dataloader.dataset.labeled.type == 'ADE20KDataset'


PAGES = [page for place in ('*.md', 'docs/**/*.md', 'configs/*/*.md') for page in sorted(ROOT.glob(place))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\((?!https?://)([^)#]+)', page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
