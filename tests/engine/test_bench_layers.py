"""Which layers count as the lower bound of a step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdbench.data.fabricated import random_dataset
from kdbench.engine.bench import Bench
from kdbench.engine.bench_layers import LayerPasses
from kdbench.engine.bench_methods import measure
from kdbench.engine.options import Options
from kdbench.experiment.pairs import Pair
from kdbench.experiment.protocol import load_protocol

LAYERS = {"at": [], "fitnet": [nn.Conv2d, nn.BatchNorm2d], "srrl": [nn.Conv2d, nn.BatchNorm2d]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder: Path = tmp_path_factory.mktemp("bench")
    options = Options(runs=folder, device=torch.device("cpu"))
    protocol = load_protocol("digits-demo-v2")
    return Bench(protocol, random_dataset("digits"), Pair.parse("resnet14>resnet8"), folder, options)


@pytest.mark.parametrize("method", LAYERS)
def test_layers_are_those_that_a_loss_runs_and_not_the_networks(bench: Bench, method: str) -> None:
    cell = bench.cell(method)
    passes = bench.layers_step(cell, bench.source(cell))
    assert isinstance(passes, LayerPasses)
    assert [type(module) for module, _ in passes.calls] == LAYERS[method]
    trained = [parameter for module, _ in passes.calls for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = None
    passes()
    assert all(parameter.grad is not None for parameter in trained)


def test_a_teacher_of_pretraining_alone_is_no_part_of_a_step(bench: Bench) -> None:
    rows, _ = measure(bench, ["kd", "ab"], 1)
    assert [row.method for row in rows if row.parts and row.parts["teacher"]] == ["kd"] * 2
