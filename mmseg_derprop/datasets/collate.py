"""From a list of items to lists of branches."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import FUNCTIONS


@FUNCTIONS.register_module()
def semi_collate(batch: Sequence[dict], _scope_: str | None = None) -> dict:
    """Gathers items by branch, tensors and samples in a list of each, which the data preprocessor stacks.

    Args:
        batch (Sequence[dict]): Items ``{'inputs': {branch: (C, H, W) uint8}, 'data_samples':
            {branch: SegDataSample}}``; labelled ones have the branch ``sup``.
        _scope_ (str, optional): Unused; mmengine hands it over where a base is named ``mmseg_derprop::``.
    """
    collated: dict[str, dict[str, list]] = {'inputs': {}, 'data_samples': {}}
    for item in batch:
        for kind, branches in collated.items():
            for branch, value in item[kind].items():
                branches.setdefault(branch, []).append(value)
    return collated
