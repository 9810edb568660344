"""SemCKD: an attention over stages."""

from __future__ import annotations

import pytest
import torch
from random_maps import maps
from random_outputs import random_outputs
from stub_nets import stub_batch, stub_net

from kdbench.method import Setup
from kdbench.methods import semckd

pytestmark = pytest.mark.once

SHAPES = [(4, 8, 8), (6, 4, 4)]


def setup_of(group_size: int) -> Setup:
    net = stub_net(shapes=SHAPES)
    return Setup(
        student=net, teacher=net, labels=torch.arange(40) % 10, epochs=1, steps_per_epoch=1, group_size=group_size
    )


def test_weights_add_up_to_1_over_the_teachers_stages() -> None:
    queries, keys = (
        [torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in n] for n in ((0, 1), (2, 3, 4))
    )
    weights = semckd.stage_weights(queries, keys)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(5, 2))
    dead = torch.zeros(5, 3, requires_grad=True)
    even = semckd.stage_weights([dead], keys)
    torch.testing.assert_close(even, torch.full((5, 1, 3), 1 / 3))
    even[:, :, 0].sum().backward()
    assert dead.grad.isfinite().all()


def test_images_that_a_batch_lacks_are_orthogonal_to_all() -> None:
    products = semckd.similarities(maps(0), 10)
    rows = maps(0).flatten(1)
    torch.testing.assert_close(products[:, :6], rows @ rows.T)
    assert not products[:, 6:].any()


def test_a_smaller_last_batch_trains_all_that_a_full_one_trains() -> None:
    torch.manual_seed(0)
    method = semckd.SemCKD(semckd.SemCKD.Config(), setup_of(16))
    sides = [random_outputs(owner, *SHAPES, rows=5) for owner in ("student", "teacher")]
    terms = method.loss(*sides, stub_batch(torch.arange(5)))
    assert isinstance(terms, dict)
    terms["semckd"].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in method.parameters())


def test_a_batch_that_is_too_small_is_refused() -> None:
    for group_size, images in ((1, "one image"), (3, "3 images")):
        with pytest.raises(ValueError, match=f"batch of {images}: choose a batch size of at least 4"):
            semckd.SemCKD(semckd.SemCKD.Config(), setup_of(group_size))
