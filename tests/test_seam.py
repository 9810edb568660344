"""The seam: fields that say what a setting may be, what is read of the networks, and their outputs."""

from __future__ import annotations

import contextlib
import math
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import make_cell
from stub_nets import stub_net, stub_setup
from torch import Tensor

from kdbench.config import Config, bounds_of, deciding, field_docs
from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import load_dataset
from kdbench.data.groups import Layout
from kdbench.engine.build import check_batches
from kdbench.engine.checks.small import CPU, PAIRS, make_source, tiny_protocol
from kdbench.engine.run import Options, Run
from kdbench.errors import UserError
from kdbench.experiment.rule_groups import ScheduleRules
from kdbench.functional import deepest_pairs
from kdbench.method import (
    Batch,
    Method,
    Paper,
    Reads,
    count,
    fraction,
    later,
    non_negative,
    positive,
    resource,
    temperature,
    weight,
)
from kdbench.net import Outputs, Undeclared


class Plain(Method):
    """Has every kind of field."""

    FAMILY = "logits"
    READS = Reads(student={"logits"}, teacher={"logits"})

    class Config(Method.Config):
        """Settings."""

        factor: float = weight(1.0)
        """Weight."""
        heat: float = temperature(4.0)
        """Temperature."""
        share: float = fraction(0.5)
        """Fraction."""
        width: int = count(3)
        """Count."""
        scale: float = positive(2.0, later=True)
        """Positive."""
        margin: float = non_negative(0.0, resource=True)
        """At least 0."""
        switch: bool = later(False)
        """Choice."""
        chunk: int = resource(7)
        """Free."""

        def check(self) -> None:
            if self.margin > self.scale:
                raise ValueError(f"margin must be at most scale = {self.scale}, not {self.margin}")

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"none": student.logits.sum()}


class Derived(Plain):
    """Gives an inherited setting another default."""

    class Config(Plain.Config):
        """Settings."""

        share: float = 0.25
        """Fraction."""


class Decorated(Method):
    """Makes its dataclass itself."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Settings."""

        first: float = 1.0
        """First."""
        factor: float = weight(2.0)
        """Weight."""
        chunk: int = resource(3)
        """Free."""


OUT_OF_BOUNDS = [
    ("factor", -1e-9, ">= 0"),
    ("factor", math.nan, "a finite number, at most 1e\\+100"),
    ("heat", 0.0, "> 0"),
    ("share", 1.5, r"in \[0, 1\]"),
    ("share", -0.5, r"in \[0, 1\]"),
    ("width", 0, "> 0"),
    ("scale", 0.0, "> 0"),
    ("margin", -1.0, ">= 0"),
]


@pytest.mark.parametrize(("name", "value", "words"), OUT_OF_BOUNDS)
@pytest.mark.parametrize("kind", [Plain, Derived])
def test_a_value_out_of_bounds_is_refused(kind: type[Method], name: str, value: float, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be {words}, not {value}$"):
        kind.Config(**{name: value})


def test_values_within_bounds_are_taken_and_must_fit_each_other() -> None:
    edges: dict[str, Any] = {"factor": 0.0, "heat": 1e100, "share": 1.0, "width": 1, "scale": 1e-9}
    config = Plain.Config(**edges)
    assert {name: getattr(config, name) for name in edges} == edges
    with pytest.raises(ValueError, match=r"^margin must be at most scale = 2.0, not 3.0$"):
        Plain.Config(margin=3.0)
    assert bounds_of(Plain.Config)["width"].whole
    assert bounds_of(Derived.Config) == bounds_of(Plain.Config)
    assert "switch" not in bounds_of(Plain.Config)


def test_a_config_is_a_frozen_dataclass_however_it_was_made() -> None:
    for kind in (Plain, Derived, Decorated):
        config = kind.Config()
        assert is_dataclass(config)
        assert isinstance(config, Config)
        name = fields(config)[0].name
        with pytest.raises(FrozenInstanceError):
            setattr(config, name, 2.0)
        with pytest.raises(TypeError):
            kind.Config(1.0)  # type: ignore[call-arg]
        assert config == kind.Config() != kind.Config(**{name: 3.0})
        assert hash(config) == hash(kind.Config())
    assert Derived.Config().share == 0.25
    assert field_docs(Derived.Config) == field_docs(Plain.Config)
    with pytest.raises(ValueError, match="factor must be >= 0"):
        Decorated.Config(factor=-1.0)


def test_what_decides_results_leaves_out_resources_and_later_defaults() -> None:
    assert list(deciding(Plain.Config())) == ["factor", "heat", "share", "width"]
    assert deciding(Plain.Config(scale=3.0, switch=True, margin=1.0, chunk=1)) == {
        **deciding(Plain.Config()),
        "scale": 3.0,
        "switch": True,
    }
    assert deciding(Decorated.Config(chunk=4)) == {"first": 1.0, "factor": 2.0}


def test_reads_are_sets_of_parts() -> None:
    reads = Reads(student={"map"}) | Reads(teacher={"logits"}) | Reads({"stem"})
    assert reads == Reads({"stem", "map"}, {"logits"})
    assert (reads.student, reads.teacher) == (frozenset({"stem", "map"}), frozenset({"logits"}))
    for wrong in ({"logit"}, "logits"):
        with pytest.raises(ValueError, match=r"^Reads\(teacher=...\) must be a set of logits, map, penultimate"):
            Reads(teacher=wrong)  # type: ignore[arg-type]
    assert Plain.all_reads(Plain.Config()) == Plain.READS


def test_a_paper_in_one_line() -> None:
    assert str(Paper("A Title", "One, Two", "ICML", 2024, "2401.00001")) == "A Title (ICML 2024, arXiv 2401.00001)"
    assert str(Paper("A Title", "One, Two", "", 2017)) == "A Title (2017)"


def test_what_is_not_given_is_not_read() -> None:
    given = Outputs("teacher", logits=torch.ones(2, 3), weight=torch.ones(3, 4), absent={"map": "it has tokens"})
    assert given.bias is None
    assert given.narrowed({"logits"}).parts().keys() == {"logits"}
    with pytest.raises(Undeclared, match=r"add it to the method's Reads\(teacher="):
        _ = given.narrowed(()).logits
    with pytest.raises(Undeclared, match=r"teacher has no 'map': it has tokens; choose another network"):
        _ = given.map
    for part in ("weight", "bias"):
        with pytest.raises(Undeclared, match="gives nothing"):
            getattr(Outputs("teacher"), part)
    with pytest.raises(AttributeError):
        given.bias = torch.zeros(3)  # type: ignore[misc]


def test_deepest_pairs_leave_out_shallow_stages() -> None:
    assert deepest_pairs("abc", [2, 3]) == [("b", 2), ("c", 3)]
    assert deepest_pairs((), [2, 3]) == []


def test_too_few_stages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, "MIN_STAGES", 2)
    deep, flat = stub_net(shapes=[(4, 8, 8), (6, 4, 4)]), stub_net(shapes=[(6, 4, 4)])
    assert Plain(Plain.Config(), stub_setup(deep, deep))
    for nets in ((deep, flat), (flat, deep)):
        with pytest.raises(ValueError, match="Plain needs networks of at least 2 stages, but stub has 1: choose"):
            Plain(Plain.Config(), stub_setup(*nets))


def test_a_batch_of_one_image_is_refused_when_the_run_is_built(tiny_npz: Path, tmp_path: Path) -> None:
    dataset = load_dataset(f"npz:{tiny_npz}", Path())
    protocol = tiny_protocol(dataset, batch_size=1)
    teacher, student = PAIRS["cifar"]
    cell = make_cell(protocol, "reviewkd", teacher, student)
    batches = Batches(DeviceData(dataset, protocol, CPU), protocol, 1)
    with pytest.raises(UserError, match=r"batch of one image.* choose a batch size of at least 2"):
        Run(cell, batches, make_source(teacher, protocol, dataset), Options(runs=tmp_path, device=CPU))


@pytest.mark.parametrize(
    ("num_images", "batch_size", "group_size", "least", "text"),
    [
        (42, 16, None, 10, ""),
        (42, 16, None, 11, "a batch of 10 images, .* at least 11, in the last batch of an epoch as well"),
        (33, 16, None, 16, ""),  # a last batch of one image is dropped
        (10, 16, None, 11, "a batch of 10 images"),
        (42, 1, None, 2, "a batch of one image, .* at least 2$"),
        (42, 16, 4, 2, ""),
        (
            42,
            16,
            4,
            3,
            "a group of 2 images, .* each of 4 groups, .* at least 12, in the last batch",
        ),
        (39, 16, 4, 4, ""),  # a last batch of less than two images a group is dropped
        (42, 16, 4, 5, "a group of 2 images"),
        (7, 16, 4, 1, "7 images are no batch: it has 4 groups"),
    ],
)
def test_every_batch_of_an_epoch_has_the_images_that_a_method_needs(
    num_images: int, batch_size: int, group_size: int | None, least: int, text: str
) -> None:
    method = Plain(Plain.Config(), stub_setup(stub_net(), stub_net()))
    method.min_images = least
    schedule = ScheduleRules(epochs=1, batch_size=batch_size, group_size=group_size, milestones=())
    with pytest.raises(ValueError, match=text) if text else contextlib.nullcontext():
        check_batches(method, Layout(num_images, schedule))
