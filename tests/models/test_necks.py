"""Maps of a vision transformer for MMSegmentation's DPT head."""

import pytest
import torch

from mmseg_derprop.models.necks import PairWithTokens


def test_maps_get_tokens():
    maps = [torch.randn(2, 8, 4, 5) for _ in range(3)]
    pairs = PairWithTokens()(maps)
    assert all(found is given and token.shape == (2, 8) for given, (found, token) in zip(maps, pairs, strict=True))


def test_maps_of_a_pyramid_are_refused():
    with pytest.raises(ValueError, match=r'one shape, but have .*\(8, 4, 4\), \(16, 2, 2\).*plain vision transformer'):
        PairWithTokens()([torch.zeros(1, 8, 4, 4), torch.zeros(1, 16, 2, 2)])
