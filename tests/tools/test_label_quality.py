"""tools/analysis_tools/label_quality.py: figures against a direct count."""

import json

import numpy as np
import pytest
import torch
from commands import call, load
from mmseg.registry import DATASETS

from mmseg_derprop.apis.inference import load_segmentor
from mmseg_derprop.utils.config import load_config

TOOL = 'analysis_tools/label_quality.py'
pytestmark = pytest.mark.usefixtures('quick_runs')


@pytest.fixture(scope='module')
def figures(run, tmp_path_factory):
    """Runs the tool on the run's checkpoint and reads its JSON."""
    checkpoint, config = run

    def judge(*args):
        path = tmp_path_factory.mktemp('figures') / 'out.json'
        call(TOOL, config, checkpoint, '--json', path, *args)
        return json.loads(path.read_text())

    return judge


def counted(run, source, alpha):
    """(truth, label, confident) of all pixels: the student's labels in evaluation mode, lerped by hand."""
    checkpoint, path = run
    config = load_config(str(path))
    model, _ = load_segmentor(config, str(checkpoint))
    settings = config.val_dataloader.dataset
    if source == 'unlabeled':
        settings.update(ann_file=config.train_dataloader.dataset.unlabeled.ann_file)
    dataset, pixels = DATASETS.build(settings), []
    for sample in dataset:
        truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
        data = model.data_preprocessor(dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]), False)
        with torch.no_grad():
            view = model.forward_view(data['inputs'], embed=True).view
            logits = (1 - alpha) * view.logits + alpha * view.propagated
        confidence, labels = logits.softmax(1).max(1)
        confident = confidence >= model.pseudo_labeler.threshold.value
        pixels.append(np.stack([truth, labels[0].numpy(), confident[0].numpy()]).reshape(3, -1))
    return np.concatenate(pixels, axis=1)


@pytest.mark.parametrize('source', ['unlabeled', 'val'])
def test_figures_are_those_of_a_direct_count(figures, run, source):
    found = figures('--data', source, '--alpha', 0.4, 0)
    truth, labels, confident = counted(run, source, 0.4)
    known, names = truth != 255, [row['class'] for row in found['classes']]
    truth, labels, confident = truth[known], labels[known], confident[known].astype(bool)
    first = found['alphas'][0]
    assert [row['alpha'] for row in found['alphas']] == [0.4, 0, 'grid']
    assert first['right'] == pytest.approx(100 * (truth == labels).mean(), abs=0.02)
    assert first['confident'] == pytest.approx(100 * confident.mean(), abs=0.02)
    if confident.any():
        right = 100 * (truth == labels)[confident].mean()
        assert first['right_of_confident'] == pytest.approx(right, abs=0.05)
    ious = []
    for index, name in enumerate(names):
        true, called = truth == index, labels == index
        row, both = found['classes'][index], (true & called).sum()
        assert row['class'] == name
        shares = dict(true_share=true.mean(), predicted_share=called.mean())
        shares['found'] = both / true.sum() if true.any() else None
        shares['right'] = both / called.sum() if called.any() else None
        union = (true | called).sum()
        shares['IoU'] = both / union if union else None
        for key, value in shares.items():
            assert row[key] is None if value is None else row[key] == pytest.approx(100 * value, abs=0.1), (name, key)
        ious.append(shares['IoU'])
    assert first['mIoU'] == pytest.approx(100 * np.mean([v for v in ious if v is not None]), abs=0.05)
    assert found['alphas'][0] != found['alphas'][1] | {'alpha': 0.4}


def test_unlabelled_images_of_a_supervised_config(figures, run, tmp_path):
    """As semi_config.py writes it: a list of images in the folders of the labelled ones."""
    path = tmp_path / 'split.py'
    path.write_text(
        f'_base_ = {str(run[1])!r}\n'
        'data = _base_.train_dataloader.dataset\n'
        "plain = dict(data.labeled, pipeline=[*data.labeled.pipeline[:-1], dict(type='PackSegInputs')])\n"
        "new = dict(_delete_=True, type='SplitDataset', supervised=plain, crop_size=(32, 32))\n"
        'train_dataloader = dict(dataset=dict(new, unlabeled=data.unlabeled.ann_file))\n'
    )
    json_file = tmp_path / 'out.json'
    call(TOOL, path, run[0], '--json', json_file, '--alpha', 0)
    assert json.loads(json_file.read_text()) == figures('--alpha', 0)


def test_detail_is_what_the_grid_cannot_hold(figures):
    """Nothing changes without propagation; with it, the prediction stays closer to the decoder's."""
    plain, detailed = (figures('--alpha', 0, 1, *extra)['alphas'] for extra in ([], ['--detail']))
    assert plain[0] == detailed[0] and plain[2] == detailed[2]
    assert plain[1] != detailed[1]
    assert plain[2] != plain[0] | {'alpha': 'grid'}


def test_a_perfect_affinity(figures):
    """Against loops over positions; and on true labels that the grid can hold it makes no mistake."""
    oracle = load(TOOL).by_perfect_affinity
    truth = torch.tensor([[0, 0, 2], [1, 255, 0]])
    logits = torch.randn(1, 3, 2, 3)
    found, p = oracle(logits, truth, 1, False).exp(), logits.softmax(1)
    for y in range(2):
        for x in range(3):
            same = truth == truth[y, x] if truth[y, x] < 3 else torch.eye(6)[3 * y + x].view(2, 3) == 1
            torch.testing.assert_close(found[0, :, y, x], p[0, :, same].mean(1))
    torch.testing.assert_close(oracle(logits, truth, 1, True), found.log())
    rows = figures('--alpha', 0, '--oracle', 4, 2)['alphas']
    assert [row['alpha'] for row in rows] == [0, 'grid', *(f'oracle {s}{d}' for s in (4, 2) for d in ('', ', detail'))]
    assert rows[-1]['mIoU'] > rows[0]['mIoU']
