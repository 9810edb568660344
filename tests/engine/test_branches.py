"""When a run's recorded step takes its turn, and when it is a branch; test_gpu.py does the same on a GPU."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdbench.engine.graphs import Branch

CPU = torch.device("cpu")


class StandIn:
    """A stand-in for a stream, a graph or an event, which records the calls on it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told
        self.device = torch.device("cuda", 0)

    def wait_event(self, event: StandIn) -> None:
        self.told.append(f"{self.name} waits for {event.name}")

    def wait_stream(self, stream: StandIn) -> None:
        self.told.append(f"{self.name} waits for {stream.name}")

    def replay(self) -> None:
        self.told.append(self.name)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []

    @contextlib.contextmanager
    def stream(given: StandIn) -> Any:
        told.append(f"on {given.name}:")
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: StandIn("main", told))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    return told


def replay_steps(told: list[str], monkeypatch: pytest.MonkeyPatch, drawn: int) -> list[list[float]]:
    """Replay three steps of two groups; return the seconds of each."""
    generator = SimpleNamespace(get_offset=lambda: drawn)
    monkeypatch.setattr(torch.cuda, "default_generators", [generator])
    graphs: Any = [StandIn("first", told), StandIn("second", told)]
    made: Any = StandIn("made", told)
    stream: Any = StandIn("branch", told)
    branch = Branch(graphs, torch.zeros(1), stream)
    return [[branch.replay(number, made, CPU).seconds() for number in range(2)] for _ in range(3)]


def test_a_branch_begins_when_what_is_shared_was_made(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = replay_steps(told, monkeypatch, drawn=0)
    assert told[:4] == ["first", "second"] * 2
    assert told[4:] == [
        *("branch waits for made", "on branch:", "first", "main waits for branch"),
        *("branch waits for made", "on branch:", "second", "main waits for branch"),
    ]
    assert seconds[2] == seconds[1], "a branch counts the time that it took by itself"


def test_a_run_that_draws_always_takes_its_turn(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    replay_steps(told, monkeypatch, drawn=4)
    assert told == ["first", "second"] * 3
