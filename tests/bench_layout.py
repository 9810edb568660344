"""Channels last against contiguous maps on the CPU; run with ``pytest tests/bench_layout.py --benchmark-only``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from kdbench.engine.bench import alternate, ratio
from kdbench.models import build_backbone

NETWORKS = ("resnet8", "resnet20", "resnet32", "resnet8x4", "wrn_16_2", "wrn_40_1", "vgg8", "MobileNetV2")
CPU = torch.device("cpu")


def stepper(network: str, layout: torch.memory_format) -> Callable[[], None]:
    torch.manual_seed(0)
    net = build_backbone(network, 100, (32, 32)).to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    images = torch.rand(64, 3, 32, 32).contiguous(memory_format=layout)
    targets = torch.arange(64)

    def step() -> None:
        optimizer.zero_grad()
        logits = net.head()(net.features(images, maps=False).penultimate)
        functional.cross_entropy(logits, targets).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("network", [*NETWORKS, "ShuffleNetV1", "ShuffleNetV2"])
def test_channels_last_over_contiguous(benchmark: Any, network: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    works = {"last": stepper(network, torch.channels_last), "first": stepper(network, torch.contiguous_format)}
    benchmark.extra_info["ratio"] = ratio(alternate(works, 15, CPU), "last", "first")
    benchmark.pedantic(works["last"], rounds=3)
    torch.set_num_threads(before)
