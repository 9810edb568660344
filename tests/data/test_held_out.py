"""Held-out images are a function of labels and numbers, and change nothing of the images that are trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cells import CPU, tiny_protocol

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import from_arrays
from kdbench.data.held_out import Division, num_trained
from kdbench.engine.checks.small import tiny_arrays
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol, load_protocol
from kdbench.method import PLAIN

LABELS = torch.tensor([0] * 40 + [1] * 25 + [2] * 7 + [3])
DATASET = from_arrays("generated", tiny_arrays())


def rules(share: float, **changes: Any) -> Protocol:
    return tiny_protocol(DATASET, validation=share, **changes)


def batches(share: float, seed: int = 3) -> Batches:
    made = Batches(DeviceData(DATASET, rules(share), CPU), rules(share), seed)
    made.add(PLAIN)
    made.begin(1)
    return made


def test_a_share_of_each_class_is_held_out() -> None:
    division = Division.of(LABELS, 0.2)
    assert LABELS[division.held_out].bincount().tolist() == [8, 5, 1]
    assert sorted([*division.trained.tolist(), *division.held_out.tolist()]) == list(range(len(LABELS)))
    assert num_trained(LABELS, 0.2) == len(division.trained) == 59
    assert division.places[division.trained].tolist() == list(range(59))
    assert division.places[division.held_out].unique().tolist() == [-1]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_no_class_is_held_out_as_a_whole(share: float) -> None:
    division = Division.of(LABELS, share)
    assert LABELS[division.trained].bincount(minlength=4).min() >= 1
    assert num_trained(LABELS, share) == len(division.trained)


def test_a_larger_share_holds_out_the_same_images_and_more() -> None:
    few, many = (set(Division.of(LABELS, share).held_out.tolist()) for share in (0.1, 0.3))
    assert few < many


def test_which_images_are_held_out_depends_on_their_numbers_alone() -> None:
    """Not on the labels of other classes, nor on images behind them that are not of their class."""
    first = LABELS == 0
    alone = Division.of(torch.where(first, 0, 1), 0.2).held_out
    among = Division.of(LABELS, 0.2).held_out
    assert alone[first[alone]].tolist() == among[first[among]].tolist()


def test_images_keep_their_views_and_batches_visit_the_others_alone() -> None:
    whole, part = batches(0.0), batches(0.25)
    held_out = set(Division.of(DATASET.train_labels, 0.25).held_out.tolist())
    visited = torch.cat([group.index for step in range(part.steps) for group in part.groups(step)])
    assert held_out
    assert held_out.isdisjoint(visited.tolist())
    assert len(visited.unique()) == len(visited) <= part.num_images == len(DATASET.train_labels) - len(held_out)
    assert torch.equal(part.views.ids(PLAIN, visited), whole.views.ids(PLAIN, visited))
    group = part.groups(0)[0]
    pixels = whole.views.make(group.index, whole.views.look_up(group, PLAIN), PLAIN)
    assert torch.equal(part.images(group, PLAIN), pixels)


def test_a_method_knows_the_images_that_are_trained_on_alone() -> None:
    part = batches(0.25)
    visited = torch.cat([group.index for step in range(part.steps) for group in part.groups(step)])
    places = part.places(visited)
    assert places.min() >= 0
    assert places.max() < part.num_images == len(part.labels)
    assert torch.equal(part.labels[places], DATASET.train_labels[visited])


def test_the_seed_does_not_count() -> None:
    assert torch.equal(batches(0.25, seed=1).labels, batches(0.25, seed=2).labels)
    assert torch.equal(batches(0.25, seed=1).validation_labels, batches(0.25, seed=2).validation_labels)


def test_held_out_images_are_seen_as_test_images_are() -> None:
    part = batches(0.25)
    assert part.validation
    pixels = torch.cat([images for _, images in part.validation.batches()])
    held_out = Division.of(DATASET.train_labels, 0.25).held_out
    as_test = replace(DATASET, test_images=DATASET.train_images[held_out]).evaluation(CPU)
    assert torch.equal(pixels, torch.cat([images for _, images in as_test.batches()]))
    assert torch.equal(part.validation_labels, DATASET.train_labels[held_out])


def test_teachers_and_cells_that_hold_nothing_out_keep_their_identities() -> None:
    protocol = load_protocol("cifar100-crd-v1")
    assert "validation" not in protocol.identity()
    held_out = protocol.override(validation=0.1)
    assert held_out.identity() == protocol.identity() | {"validation": 0.1}
    assert held_out.for_teachers() == protocol.for_teachers()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_less_than_all(share: float) -> None:
    with pytest.raises(UserError, match=r"validation must be in \[0, 1\)"):
        load_protocol("digits-demo-v1").override(validation=share)
