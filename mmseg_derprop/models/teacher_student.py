"""A student segmentor and its teacher, which answer MMSegmentation's tools as one segmentor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.error import URLError

import torch
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from ..utils.options import Bounds, check_options
from .data_preprocessor import SemiDataPreprocessor
from .decoding import probe
from .parts import TeacherOptions
from .segmentors import build_segmentor, decode_heads


def _of_evaluated(name: str) -> Any:
    """An attribute or method that the network which evaluation asks answers."""
    return property(lambda self: getattr(self.evaluated, name), doc=f'``{name}`` of the evaluated network.')


class TeacherStudentSegmentor(BaseSegmentor):
    """Two copies of a segmentor, of which one is trained and the other follows it; SemiSegmentor has the arguments.

    The EMA teacher never trains: it gets no gradient, stays in evaluation mode, and moves by :meth:`follow_student`. A
    checkpoint of the plain segmentor loads into both.
    """

    @check_options
    def __init__(
        self,
        segmentor: dict,
        num_classes: Annotated[int, Bounds(2)] | None = None,
        teacher: dict | None = None,
        predict_on: Literal['teacher', 'student'] = 'teacher',
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.predict_on: str = predict_on
        self.teacher_options = TeacherOptions(**(teacher or {}))
        self.student: BaseSegmentor = build_segmentor(plain_config(segmentor, num_classes, data_preprocessor))
        self.probed = probe(self.student)
        self.data_preprocessor = SemiDataPreprocessor(self.student.data_preprocessor)
        self.teacher: BaseSegmentor = copy.deepcopy(self.student).requires_grad_(False).eval()

    def init_weights(self) -> None:
        """Initialises the student; the teacher starts as its copy.

        Raises:
            ConnectionError: If weights cannot be fetched.
        """
        try:
            super().init_weights()
        except URLError as error:
            settings = [getattr(part, 'init_cfg', None) for part in self.student.modules()]
            sources = {str(one['checkpoint']) for one in settings if isinstance(one, dict) and 'checkpoint' in one}
            raise ConnectionError(
                f'Weights could not be fetched ({error.reason}): {", ".join(sorted(sources))}. Fetch the file '
                'elsewhere, and give its path as the checkpoint of init_cfg, or of pretrained, in the config.'
            ) from error
        self.update_teacher(momentum=0)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Moves the teacher's state towards the student's; momentum 0 copies it."""
        student = self.student.state_dict()
        teacher = self.teacher.state_dict()
        moving = [name for name, entry in teacher.items() if entry.is_floating_point()]
        # One fused operation: hundreds of small ones would take longer to launch than to run.
        torch._foreach_lerp_([teacher[name] for name in moving], [student[name] for name in moving], 1 - momentum)
        for name, entry in teacher.items():
            if not entry.is_floating_point():  # counts of batches
                entry.copy_(student[name])

    def follow_student(self, event: str, steps: int = 0) -> None:
        """Moves the teacher if it follows at this event, ``'step'`` or ``'epoch'``, after so many optimiser steps."""
        if event == self.teacher_options.interval:
            momentum = self.teacher_options.momentum
            momentum = min(1 - 1 / (steps + 1), momentum) if event == 'step' else momentum
            self.update_teacher(momentum)

    def train(self, mode: bool = True) -> TeacherStudentSegmentor:
        """As nn.Module.train; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        names = self.student.state_dict()
        if not any(key.startswith((f'{prefix}student.', f'{prefix}teacher.')) for key in state_dict):
            for name in names:
                if prefix + name in state_dict:
                    value = state_dict.pop(prefix + name)
                    state_dict[f'{prefix}student.{name}'] = value
                    state_dict[f'{prefix}teacher.{name}'] = value.clone()  # with assign=True they would share storage
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def evaluated(self) -> BaseSegmentor:
        """The segmentor that evaluation asks."""
        return self.teacher if self.predict_on == 'teacher' else self.student

    # What MMSegmentation's tools ask of a segmentor is the evaluated network's.
    decode_head, backbone, test_cfg, align_corners, num_classes, out_channels = map(
        _of_evaluated, ('decode_head', 'backbone', 'test_cfg', 'align_corners', 'num_classes', 'out_channels')
    )
    extract_feat, encode_decode, slide_inference, whole_inference = map(
        _of_evaluated, ('extract_feat', 'encode_decode', 'slide_inference', 'whole_inference')
    )

    @property
    def ignore_index(self) -> int:
        """The label that the final decode head ignores."""
        return decode_heads(self.student)[-1].ignore_index

    def _forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> Tensor:
        return self.evaluated(inputs, data_samples, mode='tensor')


def plain_config(segmentor: dict, num_classes: int | None = None, data_preprocessor: dict | None = None) -> dict:
    """The config of the segmentor that student and teacher are, from the arguments of their wrapper."""
    if 'type' not in segmentor:
        raise ValueError(
            f"model.segmentor must be a config such as dict(type='EncoderDecoder', ...), but is {segmentor}."
        )
    segmentor = {'data_preprocessor': data_preprocessor, **segmentor}
    if num_classes is not None:
        old = classes_of(segmentor.get('decode_head'))
        for name in {'decode_head', 'auxiliary_head'} & segmentor.keys():
            segmentor[name] = _with_classes(segmentor[name], old, num_classes)
    return segmentor


def classes_of(head: Any) -> int | None:
    """The number of classes in the config of a head, or of the last of several; None if it does not tell."""
    if isinstance(head, (list, tuple)):
        return classes_of(head[-1]) if head else None
    if not isinstance(head, Mapping):
        return None
    inner = (classes_of(part) for part in head.values())
    return head.get('num_classes') or next((number for number in inner if number is not None), None)


def _with_classes(part: Any, old: int | None, new: int) -> Any:
    """A config in which all that has the old number of classes has the new one; a boundary head keeps its own."""
    if isinstance(part, (list, tuple)):
        return [_with_classes(item, old, new) for item in part]
    if not isinstance(part, Mapping):
        return part
    if old is None:
        return {**part, 'num_classes': new}
    return {
        key: new if key == 'num_classes' and value == old else _with_classes(value, old, new)
        for key, value in part.items()
    }
