"""Numbers out of values of unknown kind."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from kdbench.utils.values import number, shown, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.int32(3), np.uint8(3)])
def test_whole_numbers_of_python_and_numpy_are_taken(value: Any) -> None:
    assert whole_number(value) == 3
    assert type(whole_number(value)) is int


@pytest.mark.parametrize("value", [2.5, np.float64(2.5), np.float32(2.5)])
def test_numbers_of_python_and_numpy_are_taken(value: Any) -> None:
    assert number(value) == 2.5
    assert type(number(value)) is float
    assert type(number(np.int64(2))) is float


@pytest.mark.parametrize(
    "value", [True, np.True_, 1.0, 1.5, math.inf, "1", None, [1], 1j, np.float64(1), 10**30, np.arange(2)]
)
def test_what_is_no_whole_number_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^.{1,120}$"):
        whole_number(value)


@pytest.mark.parametrize("value", [True, np.True_, "1", None, [1.0], 1j, math.nan, math.inf, -math.inf, 10**400])
def test_what_is_no_finite_number_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^.{1,120}$"):
        number(value)


@pytest.mark.parametrize(
    ("low", "high", "words"), [(1, 5, "must be between 1 and 5, not 7"), (8, None, "must be at least 8, not 7")]
)
def test_the_range_is_in_the_message(low: int, high: int | None, words: str) -> None:
    bounds = (low,) if high is None else (low, high)
    for take in (whole_number, number):
        with pytest.raises(ValueError, match=re.escape(words)):
            take(7, *bounds)


def test_messages_stay_short() -> None:
    for take in (whole_number, number):
        with pytest.raises(ValueError, match="not a number of thousands of digits"):
            take(10**5000)
    assert len(shown("x" * 1000)) == 60
    assert "thousands of digits" in shown(10**5000)
