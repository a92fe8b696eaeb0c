"""The commands and snippets of docs/deploy.md work as written."""

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [
    '\n'.join(line[4:] for line in block.splitlines())
    for block in re.findall(r'((?:^ {4}.*\n|^\n(?= {4}))+)', (ROOT / 'docs/deploy.md').read_text(), re.MULTILINE)
]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith('python tools/')]


@pytest.fixture(scope='module')
def folder(run, tool, shapes, quick_runs, tmp_path_factory):
    """A folder in which all commands but the conversion of published weights have been called, in their order."""
    pytest.importorskip('onnxruntime')
    folder = tmp_path_factory.mktemp('deploy')
    shutil.copy(shapes / 'JPEGImages/val_00002.jpg', folder / 'image.jpg')
    names = dict(CONFIG=run[1], CHECKPOINT=run[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            if 'published2mmseg' not in command:
                script, *args = (str(names.get(word, word)) for word in shlex.split(command)[1:])
                tool(script.removeprefix('tools/'), *args)
    return folder


def test_all_tools_are_there():
    assert len(COMMANDS) == 6 and all((ROOT / command.split()[1]).is_file() for command in COMMANDS)


def test_files(folder):
    assert {'model.py', 'model.pth', 'model.onnx', 'exported_deeplabv3plus_head.py'} <= {
        path.name for path in (folder / 'exported').iterdir()
    }
    assert list(json.loads((folder / 'scores.json').read_text())) == ['teacher', 'student']


def test_snippets_agree(folder, monkeypatch):
    monkeypatch.chdir(folder)
    mmseg, onnx = ({} for _ in range(2))
    exec(next(block for block in BLOCKS if 'MMSegInferencer(' in block), mmseg)
    exec(next(block for block in BLOCKS if 'InferenceSession' in block), onnx)
    assert mmseg['labels'].shape == (64, 64) and list(Path('predictions').rglob('*.*'))
    image = onnx['image'][0].transpose(1, 2, 0)
    wanted = mmseg['inference_model'](mmseg['model'], np.ascontiguousarray(image))
    first, second = wanted.seg_logits.data.topk(2, dim=0).values
    differ = torch.from_numpy(onnx['labels'][0]) != wanted.pred_sem_seg.data[0]
    assert image.shape == (96, 96, 3) and (cv2.imread('image.jpg').shape == (64, 64, 3))
    assert not differ[first - second > 1e-5 * wanted.seg_logits.data.abs().max()].any()
