"""Methods on stub networks, and drawn outputs and logits of such networks."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from stub_nets import stub_batch, stub_net, stub_setup
from torch import Tensor

from kdbench.method import Batch, Method
from kdbench.net import Outputs

STAGES = ((4, 8, 8), (6, 4, 4))
seeds = st.integers(0, 2**31 - 1)
temperatures = st.sampled_from([0.5, 1.0, 4.0, 20.0])


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def random_logits(seed: int, rows: int = 6, classes: int = 7, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = rng(seed)
    student, teacher = ((scale * torch.randn(rows, classes, generator=generator)).double() for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def outputs(owner: str, rows: int, *, scale: float = 1.0, ties: bool = False, seed: int = 0) -> Outputs:
    generator = rng(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    logits = torch.zeros(rows, 10) if ties else scale * random(rows, 10).sign()
    stages = tuple(random(rows, *shape) for shape in STAGES)
    penultimate, weight, bias = random(rows, 8), random(10, 8), random(10)
    last = scale * random(rows, 8, 4, 4)
    for part in (logits, penultimate, *stages, weight, bias, last):
        part.requires_grad_(owner == "student")
    return Outputs(
        owner,
        logits=logits,
        penultimate=penultimate,
        map=last,
        stages=stages,
        preact=stages,
        weight=weight,
        bias=bias,
    )


def built(method: type[Method], *, dtype: torch.dtype = torch.float32, **config: Any) -> Method:
    torch.manual_seed(0)
    net = stub_net(shapes=STAGES, last=(8, 4, 4)).to(dtype)
    module = method(method.Config(**config), stub_setup(net, net)).to(dtype)
    if method.pretraining(module.config) > 0:
        for part in module.pretrain(net).freeze:
            part.requires_grad_(False)
    return module


def random_scores(seed: int) -> Tensor:
    return 3 * torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)).double()


def random_outputs(owner: str, *shapes: tuple[int, int, int], rows: int = 3) -> Outputs:
    generator = torch.Generator().manual_seed(len(owner))
    maps = tuple(torch.randn(rows, *shape, generator=generator) for shape in shapes)
    width = 8
    return Outputs(
        owner,
        logits=torch.randn(rows, 10, generator=generator),
        penultimate=torch.randn(rows, width, generator=generator),
        stages=maps,
        preact=maps,
        weight=torch.randn(10, width, generator=generator),
        bias=torch.zeros(10),
    )


def batch_of(rows: int) -> Batch:
    return stub_batch(torch.arange(rows))
