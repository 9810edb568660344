"""What has to agree for digits to be judged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from kdbench.verify.conditions import conditions, disagreements, recorded

RECORD: dict[str, Any] = {
    "cost": {"devices": [1], "compiled": False, "teacher_outputs": "live"},
    "environment": {
        "device": "a processor",
        "threads": 4,
        "versions": {"torch": "2.9", "kdbench": "0.2"},
        "commit": "a" * 40,
        "dirty": False,
    },
}
CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "processor": lambda r: r["environment"].update(device="another"),
    "threads": lambda r: r["environment"].update(threads=2),
    "torch": lambda r: r["environment"]["versions"].update(torch="2.8"),
    "commit": lambda r: r["environment"].update(commit="b" * 40),
    "devices": lambda r: r["cost"].update(devices=[2]),
    "compile": lambda r: r["cost"].update(compiled=True),
    "teacher outputs": lambda r: r["cost"].update(teacher_outputs="cache"),
}


def now(record: dict[str, Any]) -> Any:
    cost = record["cost"]
    return conditions(record["environment"], devices=1, compiled=False, outputs=cost["teacher_outputs"])


def test_nothing_disagrees_where_all_is_equal() -> None:
    assert not list(disagreements(recorded(RECORD), now(RECORD)))


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_named(name: str) -> None:
    changed = copy.deepcopy(RECORD)
    CHANGES[name](changed)
    (reason,) = disagreements(recorded(changed), now(RECORD))
    assert reason.startswith(f"{name} ")


def test_a_cell_that_was_resumed_on_other_devices_agrees_with_none() -> None:
    changed = copy.deepcopy(RECORD)
    changed["cost"]["devices"] = [1, 2]
    assert list(disagreements(recorded(changed), now(RECORD)))


def test_a_commit_with_changes_is_no_code_that_could_agree() -> None:
    changed = copy.deepcopy(RECORD)
    changed["environment"]["dirty"] = True
    (reason,) = disagreements(recorded(changed), now(changed))
    assert reason == "commit aaaaaaaa with changes, here and there"


def test_installed_from_a_release_the_version_is_the_code() -> None:
    released = copy.deepcopy(RECORD)
    released["environment"] |= {"commit": None, "dirty": None}
    assert not list(disagreements(recorded(released), now(released)))
