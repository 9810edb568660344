"""Random streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.utils.streams import generator, stream_seed

PURPOSES = st.lists(st.one_of(st.text(max_size=4), st.integers()), max_size=4).map(tuple)


def test_stream_seeds_stay_what_they_are() -> None:
    assert stream_seed(0) == 7520536977032167579
    assert stream_seed(1, "order", 240) == 7228583355321952285


@settings(deadline=None)
@given(st.integers(), PURPOSES, PURPOSES)
def test_streams_are_equal_only_for_equal_purposes(seed: int, one: Any, other: Any) -> None:
    assert 0 <= stream_seed(seed, *one) < 2**63
    assert (stream_seed(seed, *one) == stream_seed(seed, *other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [((0, "ab"), (0, "a", "b")), ((0, "1"), (0, 1)), ((1, 2), (12,)), ((0, '","'), (0, "", "")), ((0,), (0, ""))],
)
def test_the_encoding_keeps_kinds_and_boundaries_apart(one: Any, other: Any) -> None:
    assert stream_seed(*one) != stream_seed(*other)


@pytest.mark.parametrize("part", [True, None, 1.0, (1,), torch.tensor(1)])
def test_a_part_of_another_kind_is_refused(part: Any) -> None:
    with pytest.raises(TypeError, match="texts and whole numbers"):
        stream_seed(0, part)


def test_a_generator_starts_at_the_beginning_of_its_stream() -> None:
    first, again = generator(3, "method"), generator(3, "method")
    numbers = torch.rand(5, generator=first)
    assert torch.equal(numbers, torch.rand(5, generator=again))
    assert not torch.equal(numbers, torch.rand(5, generator=first))
    assert first.initial_seed() == stream_seed(3, "method")


def test_one_stream_does_not_move_another() -> None:
    other = generator(0, "b")
    torch.rand(100, generator=generator(0, "a"))
    torch.rand(100)
    assert torch.equal(torch.rand(3, generator=other), torch.rand(3, generator=generator(0, "b")))
