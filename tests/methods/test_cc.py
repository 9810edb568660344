"""CC: neighbours and kernels."""

from __future__ import annotations

import pytest
import torch
from random_maps import features
from random_outputs import built, outputs
from stub_nets import stub_batch
from torch.nn import functional

from kdbench.methods import cc

pytestmark = pytest.mark.once


def test_cc_compares_neighbours_or_kernels() -> None:
    student, teacher = features(0), features(1)
    delta = (student - teacher).abs()
    expected = sum((delta[i] * delta[i + 1]).sum() for i in range(5)) / 5
    torch.testing.assert_close(cc.neighbour_loss(student, teacher), expected)
    assert cc.neighbour_loss(student[:1], teacher[:1]) == 0

    rows = functional.normalize(student, dim=1)
    exact = torch.exp(-0.05 * torch.cdist(rows, rows).square())
    torch.testing.assert_close(cc.correlations(student, 0.05), exact, rtol=1e-3, atol=0)
    kernel = built(cc.CC, form="kernel")
    assert not list(kernel.parameters())
    terms = kernel.loss(outputs("student", 4), outputs("teacher", 4, seed=1), stub_batch(torch.arange(4)))
    assert terms["cc"] > 0
