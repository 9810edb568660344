"""The settings that a search tries: scrambled Halton points on the scale of each setting, to three digits."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import pytest
from scipy.stats import qmc

from kdbench.search.points import points
from kdbench.space import Searched, among, linear, log

SPACE: dict[str, Searched] = {"temperature": log(1, 10), "gamma": linear(-2, 6), "form": among("a", "b", "c")}


def literal(study: int, number: int) -> list[dict[str, Any]]:
    """The same points from scipy, spelt out."""
    words = {"form": "a, b or c", "gamma": "-2 to 6, linear", "temperature": "1 to 10, log"}
    text = json.dumps({"space": words, "study": study}, sort_keys=True, separators=(",", ":"))
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)
    rows = qmc.Halton(3, scramble=True, rng=seed).random(number)
    return [
        {
            "form": "abc"[math.floor(3 * form)],
            "gamma": float(f"{-2 + 8 * gamma:.3g}"),
            "temperature": float(f"{10**temperature:.3g}"),
        }
        for form, gamma, temperature in rows
    ]


@pytest.mark.parametrize("study", [1, 2])
def test_they_are_scrambled_halton_points(study: int) -> None:
    assert points(SPACE, study, 40) == literal(study, 40)


def test_more_trials_leave_the_first_ones_as_they_are() -> None:
    many = points(SPACE, 1, 200)
    for number in (0, 1, 3, 16, 199):
        assert points(SPACE, 1, number) == many[:number]


def test_another_study_and_another_space_have_other_points() -> None:
    first = points(SPACE, 1, 8)
    assert points(SPACE, 2, 8) != first
    wider = points(SPACE | {"temperature": log(1, 20)}, 1, 8)
    assert [each["form"] for each in wider] != [each["form"] for each in first]
    assert points(dict(reversed(SPACE.items())), 1, 8) == first, "whatever the order of the settings"


@pytest.mark.parametrize("name", SPACE)
def test_they_cover_the_space_evenly(name: str) -> None:
    """Of 36 points, 12 are in each third of an axis: the sequence's bases are 2, 3 and 5, so two more or less."""
    values = [each[name] for each in points(SPACE, 3, 36)]
    edges = {"temperature": (10 ** (1 / 3), 10 ** (2 / 3)), "gamma": (2 / 3, 10 / 3), "form": ("a", "b")}[name]
    thirds = [sum((value > edges[0]) + (value > edges[1]) == third for value in values) for third in range(3)]
    assert all(abs(count - 12) <= 2 for count in thirds), thirds


def test_nothing_to_search_gives_no_points() -> None:
    assert points({}, 1, 16) == []
