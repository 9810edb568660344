"""Under what a cell was computed: where all of it agrees, its numbers repeat digit for digit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Conditions = Mapping[str, Any]
"""Values by the words that a report has for them."""


def recorded(record: Mapping[str, Any]) -> Conditions:
    """Return the conditions that a record names."""
    cost = record["cost"]
    devices = cost.get("devices", [1])
    return conditions(
        record["environment"],
        devices=devices[0] if len(devices) == 1 else devices,
        compiled=cost.get("compiled", False),
        outputs=cost.get("teacher_outputs"),
    )


def conditions(environment: Mapping[str, Any], *, devices: Any, compiled: Any, outputs: Any) -> Conditions:
    """Return the conditions of a run.

    Parameters
    ----------
    environment
        As records hold it.
    devices
        How many have computed the cell, one number after another where it was resumed on others.
    outputs
        Where the teacher's came from: ``live``, ``cache`` or ``file``; None without a teacher.
    """
    return {
        "processor": environment["device"],
        "threads": environment.get("threads"),
        "torch": environment["versions"]["torch"],
        "commit": _commit(environment),
        "devices": devices,
        "compile": bool(compiled),
        "teacher outputs": outputs,
    }


def _commit(environment: Mapping[str, Any]) -> str:
    """Return the code that was run: a commit without changes, or a released version."""
    commit = environment.get("commit")
    if commit:
        return f"{str(commit)[:8]}{' with changes' if environment.get('dirty') else ''}"
    return f"version {environment['versions'].get('kdbench', 'unknown')}"


def disagreements(then: Conditions, now: Conditions, names: frozenset[str] | None = None) -> Iterator[str]:
    """Yield what keeps numbers from being equal digit for digit, a phrase each.

    A commit with changes is no code that could be told from another one with changes.

    Parameters
    ----------
    names
        Of the conditions that matter; all by default.
    """
    for name, before in then.items():
        if names is not None and name not in names:
            continue
        here = now[name]
        if before != here:
            yield f"{name} {here}, there {before}"
        elif name == "commit" and str(here).endswith("with changes"):
            yield f"{name} {here}, here and there"
