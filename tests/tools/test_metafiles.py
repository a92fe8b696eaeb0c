"""OpenMMLab's index names the configs that were measured, and no other; figures are those of docs/results."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob('configs/*/metafile.yml'))
every_folder = pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)


def load(folder):
    return yaml.safe_load((folder / 'metafile.yml').read_text())


def test_the_index_imports_all_metafiles():
    imported = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    assert sorted(imported) == [f'configs/{folder.name}/metafile.yml' for folder in FOLDERS]
    names = [model['Name'] for folder in FOLDERS for model in load(folder)['Models']]
    assert len(set(names)) == len(names)


@every_folder
def test_metadata_and_results(folder):
    from mmseg_derprop.utils.config import load_config

    for model in load(folder)['Models']:
        config, metadata = load_config(str(ROOT / model['Config'])), model['Metadata']
        data = Path(model['Config']).stem.split('_')[1]
        per_gpu = config.train_dataloader.batch_size
        total = config.get('auto_scale_lr', {}).get('base_batch_size', per_gpu)
        assert (metadata['Batch Size'], metadata['Iterations']) == (total, config.train_cfg.max_iters)
        names = {'voc': 'PASCAL VOC 2012', 'cityscapes': 'Cityscapes', 'camvid': 'CamVid', 'shapes': 'embedded shapes'}
        assert metadata['Training Data'] == names[data]
        for result in model.get('Results', []):
            measured = re.findall(r'\d+\.\d', (ROOT / f'docs/results/{data}.md').read_text())
            assert {str(value) for value in result['Metrics'].values()} <= set(measured)
