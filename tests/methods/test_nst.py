"""NST: its kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_maps import maps
from random_outputs import seeds
from torch import Tensor
from torch.nn import functional

from kdbench.methods import nst

pytestmark = pytest.mark.once


@given(seed=seeds, channels=st.integers(1, 6), size=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_nst_is_the_distance_of_mean_products_of_positions(seed: int, channels: int, size: int) -> None:
    """The polynomial kernel's MMD, by channels and by positions, against a literal double loop over channels."""
    student, teacher = maps(seed, channels, size), maps(seed + 1, 3, size)
    rows = [functional.normalize(side.flatten(2), dim=2) for side in (student, teacher)]

    def mean(one: Tensor, other: Tensor) -> Tensor:
        kernels = [
            (one[:, i] * other[:, j]).sum(dim=1) ** 2 for i in range(one.shape[1]) for j in range(other.shape[1])
        ]
        return torch.stack(kernels).mean()

    expected = mean(rows[1], rows[1]) + mean(rows[0], rows[0]) - 2 * mean(rows[0], rows[1])
    torch.testing.assert_close(nst.nst_loss(student, teacher), expected, rtol=1e-9, atol=1e-12)
