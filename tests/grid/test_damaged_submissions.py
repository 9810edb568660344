"""A submission that cannot be read stops the commands that need it, and no other one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from test_cancel import make_grid, submit

from kdbench.errors import UserError
from kdbench.grid.submissions import unbegun_folders
from kdbench.slurm.profile import load_profile, profile_from

_MANIFEST = "submission.json"


def damaged(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("command", ["run", "retry", "cancel"])
def test_only_what_starts_or_stops_jobs_of_the_grid_ends(command: str, typed: Typed, monkeypatch: Any) -> None:
    monkeypatch.setattr("kdbench.cli.grid_running.start", lambda *_, **__: None)
    make_grid("other")
    grid = make_grid()
    manifest = submit(grid, {"worker-1": grid.cells}).folder / _MANIFEST
    manifest.write_text("{")
    text = f"{manifest.relative_to(Path.cwd())} is damaged (is not readable as JSON"
    code, _, err = typed("grid", command, "grid.toml")
    assert code == 2
    assert err.startswith(f"kdbench: {text}")
    for words in (("plan", "grid.toml"), ("status", "grid.toml"), (command, "other.toml"), ("plan", "other.toml")):
        code, out, err = typed("grid", *words)
        assert (code, err) == (0, ""), words
        assert f"left out: {text}" in out, words


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "cloud"}, "must be slurm or local, not 'cloud'"),
        ({"jobs": 7}, "object is not iterable"),
        ({"jobs": [{"id": 7, "stage": "all", "cells": []}]}, "must be a text, not 7"),
        ({"jobs": [{"id": "worker-1", "stage": "all"}]}, "'cells' is missing"),
        ({"launch": {"jobs": "seven"}}, "--jobs must be a whole number, not 'seven'"),
    ],
)
def test_values_of_another_type_are_damage(changes: dict[str, Any], reason: str, typed: Typed) -> None:
    grid = make_grid()
    damaged(submit(grid, {"worker-1": grid.cells}).folder / _MANIFEST, **changes)
    code, _, err = typed("grid", "cancel", "grid.toml")
    assert code == 2
    assert reason in err


def test_a_manifest_that_is_a_link_to_nothing_is_not_tidied_away(typed: Typed) -> None:
    grid = make_grid()
    manifest = submit(grid, {"worker-1": grid.cells}).folder / _MANIFEST
    manifest.unlink()
    assert unbegun_folders(grid) == [manifest.parent.relative_to(Path.cwd())]
    manifest.symlink_to("nowhere")
    assert not unbegun_folders(grid)


@pytest.mark.parametrize("change", [{"stages": {"student": {}}}, {"stages": 7}, {"path": None}])
def test_a_damaged_profile_of_a_submission_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text("cpus = 2\n")
    values = json.loads(json.dumps(load_profile(tmp_path / "profile.toml").values()))
    with pytest.raises(UserError, match="--profile FILE"):
        profile_from(values | change)
    values["stages"]["students"]["cpus"] = "seven"
    with pytest.raises(UserError, match="cpus = 'seven': must be a whole number"):
        profile_from(values)
