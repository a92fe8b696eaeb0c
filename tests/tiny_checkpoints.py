"""Checkpoints of tiny networks for the tools."""

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mmseg_derprop  # noqa: F401  (registers the parts)
from mmseg_derprop.datasets import ShapesDataset


class Harmful:
    """Runs something where it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def save_checkpoint(config, path, threshold=None, meta=ShapesDataset.METAINFO):
    """Saves random weights for a config's model, with classifiers large enough for confidences of all sizes.

    Of a SemiSegmentor, teacher and student differ.
    """
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config(dict(model=config.model.to_dict())).model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'conv_seg.weight' in name:
                parameter.normal_(0, 15)
    if threshold is not None:
        model.pseudo_labeler.threshold.value.fill_(threshold)
    torch.save(dict(meta=dict(dataset_meta=meta) if meta else {}, state_dict=model.state_dict()), path)
    return path


def save_run(config, folder):
    """Saves a config and a checkpoint of its model; returns their paths."""
    config.dump(folder / 'semi.py')
    return folder / 'semi.py', save_checkpoint(config, folder / 'semi.pth')
