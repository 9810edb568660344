"""AT: signs and sizes of maps."""

from __future__ import annotations

import pytest
import torch
from random_maps import maps
from torch.nn import functional

from kdbench.functional import to_smaller_size
from kdbench.methods import at

pytestmark = pytest.mark.once


def test_at_needs_no_sign_and_takes_maps_of_any_size() -> None:
    student, teacher = maps(0), maps(1, channels=3, size=8)
    torch.testing.assert_close(at.at_loss(student, teacher, 3), at.at_loss(-student, teacher, 3))
    pooled = functional.adaptive_avg_pool2d(teacher, 4)
    assert torch.equal(at.at_loss(student, teacher), at.at_loss(student, pooled))
    assert [tuple(side.shape[2:]) for side in to_smaller_size(maps(0, size=2), teacher)] == [(2, 2)] * 2
    wide, high = torch.zeros(1, 1, 2, 6), torch.zeros(1, 1, 4, 3)
    assert [tuple(side.shape[2:]) for side in to_smaller_size(wide, high)] == [(2, 3)] * 2
