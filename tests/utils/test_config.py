"""Configs as the tools read them."""

from pathlib import Path

import pytest
from mmseg.evaluation import IoUMetric

from mmseg_derprop.utils.config import default_work_dir, load_config, type_name

CONFIG = str(Path(__file__).resolve().parents[2] / 'configs/derprop/tiny_shapes.py')


def test_a_data_root_reaches_every_part_that_has_it():
    config = load_config(CONFIG, {'data_root': '/elsewhere'})
    assert 'data/shapes' not in config.pretty_text and config.val_dataloader.dataset.data_root == '/elsewhere'


def test_a_data_root_that_nothing_has(tmp_path):
    (tmp_path / 'plain.py').write_text('model = dict()')
    with pytest.raises(ValueError, match='data_root at its top level'):
        load_config(str(tmp_path / 'plain.py'), {'data_root': '/elsewhere'})


@pytest.mark.parametrize('kind', ['IoUMetric', 'mmseg.IoUMetric', 'mmseg.evaluation.IoUMetric', IoUMetric])
def test_a_type_may_be_named_in_any_way(kind):
    assert type_name(dict(type=kind)) == 'IoUMetric'


@pytest.mark.parametrize('folder', ['configs/derprop/', 'mmseg_derprop::derprop/'])
def test_equally_named_configs_have_work_dirs_of_their_own(folder):
    assert default_work_dir(f'{folder}r50_voc_1-8.py') == 'work_dirs/derprop/r50_voc_1-8'
    assert default_work_dir('semi.py') == 'work_dirs/semi'
    assert default_work_dir('../semi.py') == f'work_dirs/{Path.cwd().parent.name}/semi'
