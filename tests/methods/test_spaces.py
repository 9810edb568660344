"""What a search tries of each method's settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from cells import METHODS

from kdbench.cli.method_page import method_page
from kdbench.config import space_of
from kdbench.experiment.registry import load_method
from kdbench.experiment.settings import resolve_settings
from kdbench.method import Batch, Outputs, among, linear, log
from kdbench.space import Among, Range, Searched


def test_numbers_have_three_digits_and_stay_in_their_range() -> None:
    scale = log(0.1, 30.0)
    assert [scale.value(place) for place in (0.0, 0.5, 1.0)] == [0.1, 1.73, 30.0]
    assert linear(0.0, 0.25).value(1 / 3) == 0.0833
    assert log(0.0031234, 1.0).value(0.0) == 0.0031234, "rounded, it would be below"


def test_each_of_a_few_values_is_tried_as_often() -> None:
    values = among(1, 2, 4)
    assert [values.value((place + 0.5) / 6) for place in range(6)] == [1, 1, 2, 2, 4, 4]
    assert values.value(0.9999999999999999) == 4
    assert 4 in values
    assert 3 not in values
    assert str(values) == "1, 2 or 4"


@pytest.mark.parametrize(
    ("make", "values"), [(log, (0.0, 1.0)), (linear, (1.0, 1.0)), (linear, (2.0, 1.0)), (among, (1,)), (among, (1, 1))]
)
def test_what_is_nothing_to_search_is_refused(make: Callable[..., Searched], values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"a (log|linear) range|a search is among"):
        make(*values)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_is_searched(method: str) -> None:
    """One to four settings, the default among what is tried, and every corner can be run."""
    config = load_method(method).Config
    space = space_of(config)
    assert 1 <= len(space) <= 4
    default = config()
    for name, searched in space.items():
        assert getattr(default, name) in searched, name
        assert type(searched.value(0.5)) is type(getattr(default, name)), name
    ends = {name: (each.value(0.0), each.value(0.9999)) for name, each in space.items()}
    for corner in itertools.product(*ends.values()):
        chosen = dict(zip(ends, corner, strict=True))
        settings = resolve_settings(method, dataset="cifar100", teacher="resnet56", student="resnet20", chosen=chosen)
        assert {name: getattr(settings.config, name) for name in chosen} == chosen
    page = method_page(method)
    assert page.count("a search tries") == len(space)


def test_a_setting_keeps_what_is_searched_where_another_default_is_given() -> None:
    assert isinstance(space_of(load_method("mlld").Config)["standardize"], Among)
    assert isinstance(space_of(load_method("fsp").Config)["init_fraction"], Range)
    assert "init_fraction" not in space_of(load_method("ab").Config)


def test_labels_are_smoothed_as_the_setting_says_and_else_as_the_protocol() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    for setting, of_protocol in ((0.0, 0.0), (0.0, 0.1), (0.2, 0.1)):
        config = load_method("ce").Config(label_smoothing=setting)
        batch = Batch(torch.zeros(6, 3, 8, 8), targets, torch.arange(6), 1, 2, torch.Generator(), of_protocol)
        method = load_method("ce").__new__(load_method("ce"))
        torch.nn.Module.__init__(method)
        method.config = config
        (loss,) = method.loss(
            Outputs("student", logits=logits, weight=torch.zeros(5, 3)), Outputs("teacher"), batch
        ).values()
        expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=setting or of_protocol)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_cells_without_smoothing_of_their_own_stay_what_they_are() -> None:
    chosen = [{}, {"label_smoothing": 0.0}, {"label_smoothing": 0.1}]
    deciding = [
        resolve_settings("ce", dataset="cifar100", teacher=None, student="resnet20", chosen=each).values()
        for each in chosen
    ]
    assert deciding[0] == deciding[1] == {}
    assert deciding[2] == {"label_smoothing": 0.1}
