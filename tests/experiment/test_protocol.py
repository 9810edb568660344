"""Protocols against the published recipe."""

from __future__ import annotations

import pytest

from kdbench.errors import UserError
from kdbench.experiment.pairs import named_pairs, usual_pairs
from kdbench.experiment.protocol import Protocol, load_protocol, protocol_names
from kdbench.experiment.registry import load_method
from kdbench.experiment.settings import parse_settings, resolve_settings
from kdbench.models import canonical_network


def learning_rate(protocol: Protocol, student: str, epoch: int) -> float:
    """The learning rate of an epoch, which all its steps have."""
    rules = protocol.rules
    rates = {rules.optimizer.learning_rate_of(student) * rules.schedule.factor(epoch, step, 9) for step in range(9)}
    (rate,) = rates
    return rate


@pytest.mark.parametrize("name", ["cifar100-crd-v1", "cifar10-crd-v1"])
def test_crd_rules(name: str) -> None:
    """Tian et al. 2020, RepDistiller: 0.05 (0.01 for the mobile networks), a tenth from epochs 151, 181, 211."""
    protocol = load_protocol(name)
    rules = protocol.rules
    assert (rules.schedule.epochs, rules.schedule.batch_size) == (240, 64)
    assert (rules.augmentation.pad, rules.augmentation.flip) == (4, True)
    optimizer = rules.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay, optimizer.nesterov) == ("SGD", 0.9, 5e-4, False)
    expected = {1: 0.05, 150: 0.05, 151: 0.005, 180: 0.005, 181: 5e-4, 210: 5e-4, 211: 5e-5, 240: 5e-5}
    for epoch, rate in expected.items():
        assert learning_rate(protocol, "resnet20", epoch) == pytest.approx(rate)
    for mobile in ("MobileNetV2", "ShuffleNetV1", "ShuffleNetV2"):
        assert learning_rate(protocol, mobile, 151) == pytest.approx(0.001)


@pytest.mark.parametrize("name", ["imagenet-crd-v1", "imagenet-crd-pool50-v1"])
def test_rules_of_imagenet(name: str) -> None:
    """RepDistiller, issue 10, and ReviewKD: 100 epochs, 4 times 64 images, 0.1, a tenth from epochs 31, 61 and 91."""
    protocol = load_protocol(name)
    schedule, optimizer, crop = protocol.rules.schedule, protocol.rules.optimizer, protocol.rules.augmentation
    assert (schedule.epochs, schedule.batch_size, schedule.group_size, schedule.num_groups) == (100, 256, 64, 4)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay, optimizer.nesterov) == ("SGD", 0.9, 1e-4, False)
    expected = {1: 0.1, 30: 0.1, 31: 0.01, 60: 0.01, 61: 1e-3, 90: 1e-3, 91: 1e-4, 100: 1e-4}
    for epoch, rate in expected.items():
        assert learning_rate(protocol, "MobileNetV1", epoch) == pytest.approx(rate)
    assert (crop.crop, crop.size, crop.evaluation_size, crop.interpolation) == ("resized", 224, 256, "bilinear")
    assert (crop.scale, crop.ratio, crop.flip) == ((0.08, 1.0), (3 / 4, 4 / 3), True)
    assert protocol.accuracy == {
        "torchvision:resnet34": 73.31,
        "torchvision:resnet50": 76.13,
        "torchvision:resnet18": 69.76,
        "MobileNetV1": 68.87,
    }


def test_a_pool_is_all_that_its_protocol_changes() -> None:
    plain, pooled = (load_protocol(name).identity() for name in ("imagenet-crd-v1", "imagenet-crd-pool50-v1"))
    assert pooled.pop("pool") == 50
    assert plain | {"name": pooled["name"]} == pooled


@pytest.mark.parametrize("name", ["tinyimagenet-crd-v1", "imagefolder-224-v1", "imagenet-crd-pool50-v1"])
def test_rules_under_which_nothing_is_published_say_so(name: str) -> None:
    protocol = load_protocol(name)
    assert "chosen here" in protocol.source or "nothing is published" in protocol.source


def test_a_shorter_training_keeps_the_shape_of_the_schedule() -> None:
    protocol = load_protocol("cifar100-crd-v1").override(epochs=24)
    rates = [learning_rate(protocol, "resnet20", epoch) for epoch in (1, 15, 16, 18, 19, 21, 22, 24)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 5e-4, 5e-4, 5e-5, 5e-5])
    assert protocol.overrides() == {"epochs": 24}


def test_texts_are_no_part_of_the_identity() -> None:
    identity = load_protocol("cifar100-crd-v1").identity()
    assert identity["version"] == 1
    assert not {"title", "source", "accuracy", "demo"} & identity.keys()


@pytest.mark.parametrize("name", protocol_names())
def test_what_a_protocol_names_exists(name: str) -> None:
    protocol = load_protocol(name)
    networks = [*protocol.rules.optimizer.network_learning_rate, *protocol.accuracy, *protocol.demo.pair.split(">")]
    assert all(canonical_network(n) == n for n in networks)
    assert not load_method(protocol.baseline).READS.teacher
    for method in protocol.demo.methods:
        load_method(method)


def test_named_pairs_have_published_accuracies() -> None:
    pairs = named_pairs()
    assert [len(members.pairs) for members in pairs.values()] == [7, 6, 6, 5, 6, 7, 2]
    assert [members.protocol for members in pairs.values()] == ["cifar100-crd-v1"] * 6 + ["imagenet-crd-v1"]
    assert len(usual_pairs()) == len(set(usual_pairs())) == 7 + 6 + 4 + 2  # LSKD's add four
    for members in pairs.values():
        accuracy = load_protocol(members.protocol).accuracy
        for pair in members.pairs:
            assert all(canonical_network(n) == n and n in accuracy for n in (pair.teacher.network, pair.student))


def test_settings_are_default_then_recipe_then_choice() -> None:
    def beta(teacher: str, student: str, **chosen: float) -> float:
        resolved = resolve_settings("dkd", dataset="cifar100", teacher=teacher, student=student, chosen=chosen)
        return float(resolved.config.beta)

    assert beta("resnet110", "resnet20") == 8.0
    assert beta("resnet56", "resnet20") == 2.0
    assert beta("resnet56", "resnet20", beta=3) == 3.0
    source = resolve_settings("dkd", dataset="cifar100", teacher="resnet110", student="resnet20").source
    assert "no published settings for resnet110>resnet20" in source


def test_words_of_settings() -> None:
    words = ["a=1", "b=2.5", "c=true", "d=add", 'e="x"']
    assert parse_settings(words, ["kd"]) == {"kd": [{"a": 1, "b": 2.5, "c": True, "d": "add", "e": "x"}]}
    for wrong in (["a"], ["=1"], ["a="], ["a=1", "a=1"]):
        with pytest.raises(UserError):
            parse_settings(wrong, ["kd"])


def test_settings_of_several_methods_and_several_values() -> None:
    words = ["temperature=2", "temperature=4", "dkd.beta=1", "dkd.beta=8", "KD.kd_weight=1"]
    chosen = parse_settings(words, ["ce", "kd", "dkd"])
    assert chosen["ce"] == [{}]
    assert chosen["kd"] == [{"temperature": t, "kd_weight": 1} for t in (2, 4)]
    assert chosen["dkd"] == [{"temperature": t, "beta": b} for t in (2, 4) for b in (1, 8)]
    with pytest.raises(UserError, match="none of kd, dkd has such a setting"):
        parse_settings(["temprature=2"], ["kd", "dkd"])
    with pytest.raises(UserError, match="method pckd is not among those of --method"):
        parse_settings(["pckd.beta=2"], ["kd", "dkd"])


@pytest.mark.parametrize(
    ("key", "value"), [("views", 2), ("views", True), ("halves", "sum"), ("detach_preview", 1), ("alpha", "1")]
)
def test_a_setting_of_the_wrong_kind(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"setting {key} of method pckd must be"):
        resolve_settings("pckd", dataset="digits", teacher="resnet20", student="resnet8", chosen={key: value})
