"""What every test shares: one thread, fixed seeds, and ``import reference``."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
# The same examples in each run; the first call of an operator is slow.
settings.register_profile('steady', deadline=None, derandomize=True)
settings.load_profile('steady')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def assert_near():
    """Compares by the largest magnitude: 1e-5 of it in float32, 1e-10 in float64."""

    def check(found, wanted, tolerance=None):
        tolerance = tolerance or {torch.float32: 1e-5, torch.float64: 1e-10}[found.dtype]
        assert found.shape == wanted.shape
        assert torch.isfinite(found).all()
        found, wanted = found.detach().double(), wanted.detach().double()
        limit = tolerance * wanted.abs().max() if wanted.numel() else 0.0
        torch.testing.assert_close(found, wanted, rtol=0, atol=float(limit))

    return check
