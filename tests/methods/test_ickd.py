"""ICKD: correlations of channels."""

from __future__ import annotations

import pytest
import torch

from kdbench.methods import ickd

pytestmark = pytest.mark.once


def test_ickd_ignores_scale_and_the_order_of_positions() -> None:
    maps, goal = (torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    moved = maps.flatten(2)[:, :, order].view_as(maps)
    torch.testing.assert_close(ickd.ickd_loss(3 * moved, goal), ickd.ickd_loss(maps, goal))
    assert ickd.ickd_loss(maps, maps.clone()) == 0
