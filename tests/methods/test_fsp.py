"""FSP: what it trains, and what it can compare."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch
from pretraining_methods import ANY_BATCH, check_main_stage_is_the_task_alone
from recipe_files import CIFAR_PAIRS, recipes
from stub_nets import stub_net, stub_setup

from kdbench.method import Method
from kdbench.methods import ab, fsp
from kdbench.models import build_backbone
from kdbench.net import Net, Outputs

pytestmark = pytest.mark.once


@functools.cache
def cifar_net(name: str) -> Net:
    return Net(name, build_backbone(name, 100, (32, 32)), mean=(0.0,) * 3, std=(1.0,) * 3, image_size=(32, 32))


def test_fsp_trains_all_below_the_classifier_and_uses_a_stem_that_both_have() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    bare, whole = stub_net(shapes=shapes), stub_net(shapes=shapes, stem=(3, 8, 8))
    for student, teacher, has_stems in ((whole, whole, True), (bare, whole, False)):
        method = fsp.FSP(fsp.FSP.Config(), stub_setup(student, teacher))
        stage = method.pretrain(student)
        assert (stage.train, stage.freeze) == ((student,), ())
        assert method.has_stems is has_stems
        assert (stage.learning_rate, stage.milestones) == (None, ())
    maps = tuple(torch.randn(5, *shape, dtype=torch.float64) for shape in shapes)
    loss = stage.loss(Outputs("student", stages=maps), Outputs("teacher", stages=(maps[0], 2 * maps[1])), ANY_BATCH)
    torch.testing.assert_close(loss["fsp"], fsp.flow(*maps).square().mean())
    assert fsp.FSP.pretraining(method.config) == pytest.approx(30 / 240)
    check_main_stage_is_the_task_alone(fsp.FSP, bare, whole)


def test_fsp_refuses_networks_that_it_cannot_compare() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    whole, wide = stub_net(shapes=shapes, stem=(3, 8, 8)), stub_net(shapes=shapes, stem=(5, 8, 8))
    for other in (wide, stub_net(shapes=shapes[:1]), stub_net(shapes=[(4, 8, 8), (7, 4, 4)])):
        with pytest.raises(ValueError, match="equally many channels"):
            fsp.FSP(fsp.FSP.Config(), stub_setup(whole, other))
    single = stub_net(shapes=shapes[:1])
    with pytest.raises(ValueError, match="neighbouring maps"):
        fsp.FSP(fsp.FSP.Config(), stub_setup(single, single))


def test_fsps_published_pairs_are_those_it_can_compare() -> None:
    """And AB's are all of them."""
    able: dict[type[Method], set[str]] = {ab.AB: set(), fsp.FSP: set()}
    for pair in CIFAR_PAIRS:
        teacher, student = map(cifar_net, pair.split(">"))
        for kind, pairs in able.items():
            with contextlib.suppress(ValueError):
                kind(kind.Config(), stub_setup(student, teacher))
                pairs.add(pair)
    for kind, pairs in able.items():
        assert {pair for recipe in recipes(kind) for pair in recipe["pairs"]} == pairs
    assert len(able[ab.AB]) == 13
