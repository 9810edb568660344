"""Every loss of a pre-training, on stub networks."""

from __future__ import annotations

import pytest
import torch
from random_outputs import STAGES, built, outputs
from stub_nets import stub_batch, stub_net
from torch import Tensor

from kdbench.method import Method
from kdbench.methods import ab, fsp, ft, sskd
from kdbench.net import Outputs

pytestmark = pytest.mark.once


@pytest.mark.parametrize("kind", [ab.AB, fsp.FSP, ft.FT, sskd.SSKD])
def test_pretraining_is_in_float32_and_does_not_depend_on_the_order_of_a_batch(kind: type[Method]) -> None:
    module = built(kind)
    stage = module.pretrain(stub_net(shapes=STAGES))
    for part in stage.train:
        part.requires_grad_(True)
    views, order = module.views(module.config).num_views, torch.tensor([4, 2, 0, 1, 3])
    owners = [outputs(owner, 5 * views, seed=seed) for seed, owner in enumerate(("student", "teacher"))]

    def loss_of(chosen: Tensor, dtype: torch.dtype) -> Tensor:
        rows = torch.cat([view * 5 + chosen for view in range(views)])
        maps = [tuple(level[rows].to(dtype) for level in side.stages) for side in owners]
        wide = [side.penultimate[rows].to(dtype) for side in owners]
        student, teacher = (
            Outputs(side, penultimate=pooled, stages=stages, preact=stages)
            for side, pooled, stages in zip(("student", "teacher"), wide, maps, strict=True)
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            (loss,) = stage.loss(student, teacher, stub_batch(order)).values()
        assert loss.isfinite()
        return loss

    assert {loss_of(order, dtype).dtype for dtype in (torch.bfloat16, torch.float32)} == {torch.float32}
    module.double()
    losses = [loss_of(chosen, torch.float64) for chosen in (torch.arange(5), order)]
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1])
    losses[0].backward()
    maps_read = owners[0].stages if kind.reads(module.config, "pretraining").student else ()
    reached = [*maps_read, *(parameter for part in stage.freeze for parameter in part.parameters())]
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in reached)
