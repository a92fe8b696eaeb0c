"""From a list of items to lists of branches."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import FUNCTIONS

LABELED_BRANCH = 'sup'


def branches_of(item: dict) -> dict:
    """Images of an item by branch; raises ValueError if it has none."""
    branches = item.get('inputs') if isinstance(item, dict) else None
    if not isinstance(branches, dict):
        has = f'the keys {sorted(map(str, item))}' if isinstance(item, dict) else f'{type(item).__name__}'
        raise ValueError(
            f'A pipeline must give inputs by branch, but gives {has}. End it in MultiBranch({LABELED_BRANCH}=[...]) or '
            'MultiBranch(weak=[...], strong=[...]), each branch in PackSemiInputs.'
        )
    return branches


@FUNCTIONS.register_module()
def semi_collate(batch: Sequence[dict], _scope_: str | None = None) -> dict:
    """Gathers items by branch, tensors and samples in a list of each, which the data preprocessor stacks.

    Args:
        batch (Sequence[dict]): Items ``{'inputs': {branch: (C, H, W) uint8}, 'data_samples':
            {branch: SegDataSample}}``. Labelled ones have the branch ``sup`` and must come first.
        _scope_ (str, optional): Unused; mmengine hands it over where a base is named ``mmseg_derprop::``.
    """
    labeled = [LABELED_BRANCH in branches_of(item) for item in batch]
    if not any(labeled[:1]) or labeled != sorted(labeled, reverse=True):
        order = ''.join('LU'[not is_labeled] for is_labeled in labeled)
        raise ValueError(
            f'A batch must hold labelled items (L, branch {LABELED_BRANCH!r}) and then unlabelled ones (U), but holds '
            f'{order or "none"}. Set batch_size of the dataloader to num_labeled + num_unlabeled of its SemiSampler, '
            f'and end the labelled pipeline in MultiBranch({LABELED_BRANCH}=[...]).'
        )
    collated: dict[str, dict[str, list]] = {'inputs': {}, 'data_samples': {}}
    for item in batch:
        for kind, branches in collated.items():
            for branch, value in item[kind].items():
                branches.setdefault(branch, []).append(value)
    return collated
