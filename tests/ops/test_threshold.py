"""The confidence threshold: worked examples, the reference, properties."""

import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_derprop.ops import class_maxima, move_threshold


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 22),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    share=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_maxima_are_those_of_the_reference(batch, classes, size, share, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *size)
    confidence = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) + 0.01
    labels = torch.randint(classes, shape, generator=generator)
    valid = torch.rand(shape, generator=generator) < share
    found = class_maxima(confidence, labels, valid, classes)
    wanted = reference.class_maxima(confidence, labels, valid, classes)
    assert found.dtype == dtype
    assert torch.equal(found, wanted)
    tau = torch.tensor(0.85, dtype=dtype)
    torch.testing.assert_close(move_threshold(tau, found, 0.999), reference.move_threshold(tau, wanted, 0.999))
