"""What holds for every method's loss, on stub networks."""

from __future__ import annotations

import dataclasses

import cells
import pytest
import torch
from random_outputs import built, outputs, rng
from stub_nets import stub_batch, terms_of

from kdbench.experiment.registry import load_method
from kdbench.functional import inner_products
from kdbench.method import Method
from kdbench.methods import (
    crd,
)
from kdbench.methods._task import TaskMethod
from kdbench.net import Outputs

pytestmark = pytest.mark.once

# A loss of a network that the method makes of the student has tests of its own.
METHODS = [method for method in map(load_method, cells.METHODS) if method.wrap is Method.wrap]
UNORDERED = {load_method(name): settings for name, settings in cells.UNORDERED.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_values_and_gradients_are_finite_at_the_extremes(
    method: type[Method], ties: bool, temperature: float | None
) -> None:
    """Float32 logits of +-50, right and wrong, and ties."""
    has_temperature = "temperature" in {field.name for field in dataclasses.fields(method.Config)}
    config = {"temperature": temperature} if temperature and has_temperature else {}
    module = built(method, **config)
    views = method.views(module.config).num_views
    student = outputs("student", 4 * views, scale=50, ties=ties)
    teacher = outputs("teacher", 4 * views, scale=50, ties=ties, seed=1)
    terms = terms_of(module.loss(student, teacher, stub_batch(torch.arange(4), epoch=60)))
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values()), terms
    torch.stack(list(terms.values())).sum().backward()
    gradients = [student.logits.grad] + [parameter.grad for parameter in module.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_outputs_give_float32_losses(method: type[Method]) -> None:
    module = built(method)
    rows = 4 * method.views(module.config).num_views
    halves = []
    for owner in ("student", "teacher"):
        full = outputs(owner, rows)
        maps = tuple(stage.bfloat16() for stage in full.stages)
        halves.append(
            Outputs(
                owner,
                logits=full.logits.bfloat16(),
                penultimate=full.penultimate.bfloat16(),
                map=full.map.bfloat16(),
                stages=maps,
                preact=maps,
                weight=full.weight,
                bias=full.bias,
            )
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = terms_of(module.loss(halves[0], halves[1], stub_batch(torch.arange(4), epoch=240)))
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_inner_products_stay_in_float32_under_autocast() -> None:
    rows = torch.randn(5, 64, generator=rng(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        products, rounded = inner_products(rows, rows), rows @ rows.T
    assert torch.equal(products, rows @ rows.T)
    assert not torch.equal(products, rounded.float())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_batchs_order_does_not_matter(method: type[Method], weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    divergence = {"kd_weight": weight} if issubclass(method, TaskMethod) else {}
    module = built(method, dtype=torch.float64, **divergence, **UNORDERED.get(method, {}))
    views = method.views(module.config).num_views
    state = {key: value.clone() for key, value in module.state_dict().items()}
    targets = torch.tensor([3, 1, 3, 0, 2])
    order = torch.tensor([4, 2, 0, 1, 3])
    negatives = (targets[:, None] + torch.tensor([[1, 12, 23]])) % 40
    student, teacher = outputs("student", 5 * views), outputs("teacher", 5 * views, seed=1)
    totals = []
    for chosen in (torch.arange(5), order):
        rows = torch.cat([view * 5 + chosen for view in range(views)])
        monkeypatch.setattr(crd, "draw_negatives", lambda *_, chosen=chosen: negatives[chosen])
        module.load_state_dict(state)
        sides = [
            Outputs(
                "student",
                logits=side.logits[rows].double(),
                penultimate=side.penultimate[rows].double(),
                map=side.map[rows].double(),
                stages=tuple(stage[rows].double() for stage in side.stages),
                preact=tuple(stage[rows].double() for stage in side.preact),
                weight=side.weight.double(),
                bias=side.bias,
            )
            for side in (student, teacher)
        ]
        terms = terms_of(module.loss(sides[0], sides[1], stub_batch(targets[chosen], index=chosen, epoch=30)))
        totals.append(torch.stack([term.double() for term in terms.values()]))
    torch.testing.assert_close(totals[0], totals[1])
