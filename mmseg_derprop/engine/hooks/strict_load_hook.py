"""Refuses a checkpoint of another network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor, nn

from ...utils.checkpoints import check_state, state_dict_of
from ...utils.options import check_options

LISTED = 12  # names in an error


class CheckpointMismatch(ValueError):
    """A checkpoint does not fit the model."""


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuses a checkpoint that does not fit the model; the engine would load what matches, and only log the rest.

    A part (backbone, decode head, ...) may be missing as a whole, as the propagation head is from a plain
    segmentor's checkpoint; what is there must fit entry by entry.

    Args:
        needed (Sequence[str], optional): Beginnings of names that must be there, ``''`` for all. By default all where
            a run resumes, and none where it begins with the weights. Auxiliary heads, which nothing but training asks,
            may always be missing. Where any are needed, so is the alignment's bias of which predictions are made.
    """

    @check_options
    def __init__(self, needed: Sequence[str] | None = None) -> None:
        self.needed = needed

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Raises CheckpointMismatch or CheckpointNotRead unless the checkpoint fits, before the engine loads it."""
        resumes = runner.cfg.get('resume')
        if resumes:
            check_state(checkpoint)
        needed = ([''] if resumes else []) if self.needed is None else self.needed
        model = unwrap(runner.model)
        try:
            state = state_dict_of(checkpoint)
        except ValueError as error:
            raise CheckpointMismatch(f'In the file: {error}.') from None
        if new := check_fit(model, state, needed):
            print_log(f'Not in the checkpoint, so they begin anew: {", ".join(new)}.', logger='current')


def unwrap(model: Any) -> Any:
    """The segmentor in the wrappers for several processes and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def check_fit(model: nn.Module, state: dict[str, Tensor], needed: Sequence[str] = ()) -> list[str]:
    """Loads a state dict if it fits as :class:`StrictLoadHook` says, and returns the model's parts that it lacks."""
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    try:
        missing, unknown = model.load_state_dict(state, strict=False)  # modules may convert entries of old versions
    except RuntimeError as error:
        shapes = _some([line.strip().rstrip('.') for line in str(error).splitlines()[1:]], '\n  ')
        prefix = next((name.partition('backbone.')[0] for name in state if 'backbone.' in name), '') + 'backbone.'
        raise CheckpointMismatch(
            f'Entries have other shapes:\n  {shapes}\nUse the config that the checkpoint was trained with. If only the '
            "classes differ, take its backbone alone: init_cfg=dict(type='Pretrained', checkpoint=..., "
            f"prefix='{prefix}') of the backbone."
        ) from None
    names = [name for name in model.state_dict() if not name.endswith('num_batches_tracked')]
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    parts, found = dict.fromkeys(map(_part, names)), {_part(name) for name in names if name not in set(missing)}
    new = [part for part in parts if part not in found]
    if not found:
        raise CheckpointMismatch(
            f'Nothing in it has a place in this model. It holds {_some(list(state))}. {_hint(model, state)}'
        )
    loaded = {part.rpartition('.')[2] for part in found}
    if needed and getattr(model, 'prediction_bias', None) is not None:
        needed = [*needed, 'pseudo_labeler']
    wanted = {part for part in new if part.startswith(tuple(needed)) and not part.endswith('auxiliary_head')}
    lacking = [name for name in missing if _part(name) in found | wanted]
    extra = [name for name in unknown if _part(name).rpartition('.')[2] in loaded]
    if lacking or extra:
        lines = [f'It lacks {len(lacking)} entries: {_some(lacking)}.'] if lacking else []
        lines += [f'The model does not know {len(extra)} entries: {_some(extra)}.'] if extra else []
        if 'pseudo_labeler.alignment.bias' in lacking:
            lines.append(
                'The config gives predictions a bias for each class; for predictions without it: --cfg-options '
                'model.pseudo_labels.alignment.predict=False.'
            )
        raise CheckpointMismatch('\n'.join([*lines, _hint(model, state)]))
    return new


def _part(name: str) -> str:
    """``student.backbone`` of ``student.backbone.layer1...``, ``backbone`` of ``backbone.layer1...``."""
    return re.match(r'((student|teacher)\.)?[^.]*', name)[0]  # type: ignore[index]


def _hint(model: nn.Module, state: dict[str, Tensor]) -> str:
    if 'classifier.weight' in state:
        return 'If it is of a published network, tools/model_converters/published2mmseg.py converts it.'
    if any(name.startswith(('student.', 'teacher.')) for name in state) and not hasattr(model, 'student'):
        return "It is a SemiSegmentor's: tools/model_converters/export_segmentor.py writes a plain one of it."
    if state.keys() & {name.rpartition('backbone.')[2] for name in model.state_dict() if 'backbone.' in name}:
        return "It is a backbone's: give it as init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone."
    return 'Use the config that the checkpoint was trained with.'


def _some(names: list[str], separator: str = ', ') -> str:
    more = f'{separator}and {len(names) - LISTED} more' if len(names) > LISTED else ''
    return separator.join(names[:LISTED]) + more
