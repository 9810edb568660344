"""Rules: identities that never change, and files that are read strictly."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kdbench.engine.checks.small import make_cell
from kdbench.errors import UserError
from kdbench.experiment import rules as rules_of
from kdbench.experiment.cell import Cell
from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.experiment.protocol import Protocol, load_protocol, protocol_names, read_protocol
from kdbench.experiment.rules import Rules
from kdbench.experiment.settings import Settings
from kdbench.method import Method

DATA, RESULTS = Path(__file__).parents[1] / "data", Path(__file__).parents[2] / "results"
RECIPE = """
title = "Vision transformers"
source = "nobody"
version = 1
baseline = "ce"
precision = "bf16"
label_smoothing = 0.1

[data]
dataset = "cifar100"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[augmentation]
pad = 4
flip = true

[optimizer]
name = "AdamW"
learning_rate = 5e-4
betas = [0.9, 0.95]
weight_decay = 0.05
gradient_clip = 5

[schedule]
name = "cosine"
epochs = 100
batch_size = 128
warmup = 0.05

[teacher]
epochs = 300

[demo]
pair = "resnet20>resnet8"
methods = ["ce", "kd"]
seeds = [1]
"""


def read(text: str) -> Protocol:
    return read_protocol("vit-v1", tomllib.loads(text), "vit-v1.toml")


def cell_of(protocol: Protocol) -> Cell:
    settings = Settings(Method.Config(), {}, "")
    return Cell(
        protocol=protocol, teacher=None, student="resnet8", method="ce", method_version=1, settings=settings, seed=1
    )


def test_cells_keep_the_ids_that_they_had() -> None:
    """Ids as commit 3321ff5 computed them: protocols, with and without overrides, pairs and methods.

    But for the VERSION of a method, which was 1 then.
    """
    ids = json.loads((DATA / "cell_ids.json").read_bytes())
    assert len(ids) == 486
    for name, expected in ids.items():
        protocol, *overrides, pair, method = name.split()
        changes = tomllib.loads("\n".join(_as_toml(word) for words in overrides for word in words.split(",")))
        cell = make_cell(load_protocol(protocol).override(**changes), method, *pair.split(">"))
        assert dataclasses.replace(cell, method_version=1).id[:16] == expected, name


def _as_toml(word: str) -> str:
    key, value = word.split("=")
    return word if value.isdigit() else f'{key} = "{value}"'


@pytest.mark.checkout
def test_rules_are_those_of_kept_records() -> None:
    records = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("**/record.json"))]
    assert records
    for record in records:
        protocol = load_protocol(record["protocol"]).override(**record["overrides"])
        assert protocol.identity() == record["config"]["protocol"]
        assert protocol.overrides() == record["overrides"]
        assert identity_hash(identity_text(record["config"])) == record["cell"]


@pytest.mark.parametrize("name", protocol_names())
def test_a_text_never_renames_a_cell(name: str) -> None:
    """Neither another text, nor a new one that a later version adds."""
    protocol = load_protocol(name)
    wider = _with_colour(protocol)
    changed = dataclasses.replace(protocol, title="x", source="x", accuracy={"resnet8": 1.0}, teacher_epochs=7)
    assert cell_of(wider).id == cell_of(changed).id == cell_of(protocol).id


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coloured(Protocol):
    colour: str = "red"


def _with_colour(protocol: Protocol) -> Protocol:
    return _Coloured(**{field.name: getattr(protocol, field.name) for field in dataclasses.fields(protocol)})


def test_every_rule_has_one_flat_key() -> None:
    groups = {"": Rules, **rules_of._GROUPS}
    places = [
        (group, field.name)
        for group, kind in groups.items()
        for field in dataclasses.fields(kind)
        if field.name not in rules_of._GROUPS
    ]
    assert sorted(rules_of.PLACES.values()) == sorted(places)


def test_rules_that_are_as_before_have_no_part_in_an_identity() -> None:
    identity = load_protocol("cifar100-crd-v1").identity()
    assert list(identity) == [
        *("name", "version", "dataset", "mean", "std", "pad", "flip", "epochs", "batch_size", "learning_rate"),
        *("network_learning_rate", "momentum", "weight_decay", "nesterov", "milestones", "decay", "precision"),
    ]


OTHER: dict[str, Any] = {
    "gradient_clip": 1.0,
    "warmup": 0.1,
    "label_smoothing": 0.1,
    "pad": 3,
    "learning_rate": 0.1,
    "batch_size": 32,
}


@pytest.mark.parametrize("key", OTHER)
def test_every_other_rule_is_another_cell(key: str) -> None:
    protocol = load_protocol("digits-demo-v1")
    changed = protocol.override(**{key: OTHER[key]})
    assert cell_of(changed).id != cell_of(protocol).id
    assert changed.overrides() == {key: OTHER[key]}
    # Back to what it was, it is the same cell again.
    back = changed.rules.replace(**{key: protocol.rules.values()[key]})
    assert cell_of(dataclasses.replace(changed, rules=back)).id == cell_of(protocol).id


def test_rules_of_another_optimiser_and_schedule() -> None:
    protocol = read(RECIPE)
    identity = protocol.identity()
    assert identity == {
        "name": "vit-v1",
        "version": 1,
        "dataset": "cifar100",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "pad": 4,
        "flip": True,
        "epochs": 100,
        "batch_size": 128,
        "learning_rate": 5e-4,
        "network_learning_rate": {},
        "weight_decay": 0.05,
        "decay": 0.1,
        "precision": "bf16",
        "optimizer": "AdamW",
        "betas": [0.9, 0.95],
        "gradient_clip": 5.0,
        "schedule": "cosine",
        "warmup": 0.05,
        "label_smoothing": 0.1,
    }
    assert protocol.for_teachers().epochs == 300
    assert protocol.for_teachers().identity() == identity | {"epochs": 300}
    assert protocol.override(epochs=4).for_teachers().epochs == 4
    assert protocol.override(precision="fp32").for_teachers().epochs == 300


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "", "vit-v1.toml: version is missing: known are version, precision"),
        ("version = 1", "version = 1\nversoin = 2", "vit-v1.toml: unknown key 'versoin': known are title, source"),
        ("version = 1", "version = true", "vit-v1.toml: version must be a whole number, not True"),
        ('"bf16"', '"bf61"', "vit-v1.toml: precision must be 'fp32' or 'bf16' or 'fp16', not 'bf61'"),
        ("label_smoothing = 0.1", "label_smoothing = 1", r"label_smoothing must be in \[0, 1\), not 1.0"),
        ("flip = true", "flip = 1", r"vit-v1.toml: \[augmentation\]: flip must be true or false, not 1"),
        ("flip = true", "filp = true", r"\[augmentation\]: unknown key 'filp': known are crop, flip, pad"),
        ("flip = true", "mean = 1", r"unknown key 'mean': known are crop, .+; mean is a key of \[data\]$"),
        ("version = 1", "version = 1\npad = 2", r"unknown key 'pad': .+; pad is a key of \[augmentation\]"),
        ("pad = 4", "pad = -1", r"\[augmentation\]: pad must be >= 0, not -1"),
        ("[augmentation]", "[[augmentation]]", "vit-v1.toml: augmentation must be a table, not "),
        ("[0.5, 0.5, 0.5]", "[0.5]", r"\[data\]: mean must be a list of 3 or 'measured', not \[0.5\]"),
        ("[0.25, 0.25, 0.25]", "[0.25, 0.25, 0]", r"\[data\]: std must be > 0"),
        ('"AdamW"', '"Adam"', r"\[optimizer\]: name must be 'SGD' or 'AdamW', not 'Adam'"),
        ('"AdamW"', '"SGD"', r"\[optimizer\]: momentum is missing: SGD needs it"),
        ("betas =", "momentum = 0.9\nbetas =", r"\[optimizer\]: momentum is a rule of SGD, not of AdamW"),
        ("betas = [0.9, 0.95]", "", r"\[optimizer\]: betas is missing: AdamW needs it"),
        ("[0.9, 0.95]", "[0.9, 1]", r"\[optimizer\]: betas must be in \[0, 1\), not \[0.9, 1.0\]"),
        ("learning_rate = 5e-4", "learning_rate = 0", r"\[optimizer\]: learning_rate must be > 0, not 0.0"),
        ("learning_rate = 5e-4", "learning_rate = nan", r"\[optimizer\]: learning_rate must be finite, not nan"),
        ("gradient_clip = 5", "gradient_clip = 0", r"\[optimizer\]: gradient_clip must be > 0, not 0.0"),
        ("warmup = 0.05", "warmup = 5", r"\[schedule\]: warmup must be in \[0, 1\), not 5.0"),
        ("warmup = 0.05", "milestones = [0.5]", r"\[schedule\]: milestones is a rule of step, not of cosine"),
        ('"cosine"', '"step"', r"\[schedule\]: milestones is missing: step needs it"),
        ("epochs = 100", "epochs = 0", r"\[schedule\]: epochs must be at least 1, not 0"),
        ("epochs = 300", "epochs = 0", r"\[teacher\]: epochs must be at least 1, not 0"),
        ("seeds = [1]", "seeds = [1.5]", r"\[demo\]: seeds must be a whole number, not 1.5"),
    ],
)
def test_a_wrong_file_is_one_clear_line(old: str, new: str, message: str) -> None:
    assert RECIPE.count(old) == 1
    with pytest.raises(UserError, match=message) as error:
        read(RECIPE.replace(old, new))
    assert "\n" not in str(error.value)


def test_an_override_is_checked() -> None:
    protocol = load_protocol("digits-demo-v1")
    with pytest.raises(UserError, match="--epochs must be at least 1, not 0"):
        protocol.override(epochs=0)
    with pytest.raises(UserError, match="digits-demo-v1: unknown rule 'colour': known are version"):
        protocol.override(colour="red")
