"""Maps are pooled to a size as PyTorch's adaptive pooling does, whose gradient on a GPU does not repeat itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdbench.functional import mean_squared_error, pooled_to


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(8, 8, (4, 4)), (7, 7, (4, 4)), (7, 5, (2, 4)), (6, 6, (1, 1)), (4, 4, (4, 4))]
)
def test_pooling_is_adaptive_pooling_with_its_gradient(rows: int, columns: int, size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for pool in (pooled_to, functional.adaptive_avg_pool2d):
        leaf = maps.clone().requires_grad_()
        pooled = pool(leaf, size)
        pooled.square().sum().backward()
        found.append((pooled, leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_a_squared_error_has_its_maps_order_in_memory(layout: torch.memory_format) -> None:
    maps = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (each.to(memory_format=layout).requires_grad_() for each in maps)
    expected = torch.autograd.grad((ours - theirs).square().mean(), (ours, theirs))
    error = mean_squared_error(ours, theirs)
    torch.testing.assert_close(error, functional.mse_loss(ours, theirs))
    gradients = torch.autograd.grad(error, (ours, theirs))
    torch.testing.assert_close(gradients, expected)
    assert all(gradient.is_contiguous(memory_format=layout) for gradient in gradients)
