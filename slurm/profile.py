"""Read profiles: TOML files with the resources that a cluster's jobs request."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdbench.errors import UserError
from kdbench.utils.reading import Missing, Unreadable, read_toml
from kdbench.utils.values import LARGEST, shown

Stage = Literal["teacher", "cache", "students"]
EXAMPLES = Path(__file__).parent / "profiles"
STAGES: tuple[Stage, ...] = typing.get_args(Stage)
TRAINING: tuple[Stage, ...] = ("teacher", "students")
"""Stages whose jobs may have several devices; a cache is built by one."""
_OLD_NAMES = {"together": "lockstep"}
"""Earlier names of keys: profiles may use either, and submissions keep the earlier one on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one job requests, and how a stage is cut into jobs. What is left out is the cluster's default."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    gres: str = ""
    """E.g. ``gpu:a100:1``."""
    cpus: int = 4
    memory: str = ""
    """E.g. ``32GB``."""
    time: str = "04:00:00"
    """``HH:MM:SS``, ``D-HH:MM:SS`` or minutes. A job that needs longer saves its state and is started again."""
    parallelism: int = 8
    """Maximum number of jobs of one stage that run at a time."""
    cells_per_job: int = 1
    lockstep: int = 1
    """Maximum number of a job's cells in lockstep on its devices."""
    devices_per_cell: int = 1
    """Tasks of a job, each with ``cpus`` and a device of its own: together they compute each cell."""
    nodes: int = 1
    """Nodes over which they are spread, as many on each; ``gres`` is that of a node."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the job, e.g. ``module load cuda``."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Further options of sbatch, e.g. ``constraint = "a100"``."""

    @property
    def minutes(self) -> int:
        """Return the time limit in minutes."""
        return minutes_of(self.time)


@dataclass(frozen=True, slots=True)
class Profile:
    """The resources of each stage."""

    path: str
    stages: dict[Stage, Resources]

    def values(self) -> dict[str, Any]:
        """Return plain values, from which :func:`profile_from` makes the profile again."""
        values = dataclasses.asdict(self)
        for stage in values["stages"].values():
            for old, new in _OLD_NAMES.items():
                stage[old] = stage.pop(new)
        return values


def load_profile(path: Path) -> Profile:
    """Read a profile: keys for all stages, and tables ``[teacher]``, ``[cache]``, ``[students]`` for what differs.

    Raises
    ------
    UserError
        The file does not exist, is not TOML, or a key is unknown or of the wrong type.
    """
    try:
        values = read_toml(path)
    except Missing:
        raise UserError(f"profile {path} does not exist: {EXAMPLES} has two examples, with comments") from None
    except Unreadable as error:
        raise UserError(f"profile {path} {error}") from None
    tables = {stage: values.pop(stage, {}) for stage in STAGES}
    for stage, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"profile {path}: {stage} = {table!r} must be a table [{stage}]")
    shared = _renamed(path, values)
    return Profile(
        str(path), {stage: _resources(path, shared | _renamed(path, table)) for stage, table in tables.items()}
    )


def profile_from(values: dict[str, Any]) -> Profile:
    """Make a profile from :meth:`Profile.values`, as a submission keeps them.

    Raises
    ------
    UserError
        They are damaged.
    """
    try:
        path, tables = Path(values["path"]), values["stages"]
        if unknown := tables.keys() - set(STAGES):
            raise ValueError(f"{shown(min(unknown))} is no stage")
        return Profile(str(path), {stage: _resources(path, _renamed(path, table)) for stage, table in tables.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(
            f"the profile that was submitted is damaged ({reason}): name a profile with --profile FILE"
        ) from None


def _renamed(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Give keys their present names."""
    for old, new in _OLD_NAMES.items():
        if old in values and new in values:
            raise UserError(f"profile {path}: {old} is the earlier name of {new}: keep one of the two lines")
    return {_OLD_NAMES.get(key, key): value for key, value in values.items()}


def _resources(path: Path, values: dict[str, Any]) -> Resources:
    types = typing.get_type_hints(Resources)
    keywords: dict[str, Any] = {}
    for key, value in values.items():
        line = f"profile {path}: {key} = {shown(value)}"
        if key not in types:
            raise UserError(f"{line}: unknown key: known are {', '.join(types)} and the tables {', '.join(STAGES)}")
        in_minutes = key == "time" and type(value) is int
        keywords[key] = str(value) if in_minutes else _typed(line, value, types[key])
    resources = Resources(**keywords)
    for name in ("cpus", "parallelism", "cells_per_job", "lockstep", "devices_per_cell", "nodes"):
        if not 1 <= getattr(resources, name) <= LARGEST:
            raise UserError(f"profile {path}: {name} = {shown(getattr(resources, name))}: must be at least 1")
    if resources.devices_per_cell % resources.nodes:
        raise UserError(
            f"profile {path}: nodes = {resources.nodes}: must divide devices_per_cell = {resources.devices_per_cell}"
        )
    try:
        minutes = resources.minutes
    except ValueError as error:
        raise UserError(f"profile {path}: time = {resources.time!r}: {error}") from None
    if minutes < 2:
        raise UserError(f"profile {path}: time = {resources.time!r}: a job needs at least 2 minutes")
    return resources


def _typed(line: str, value: Any, expected_type: Any) -> Any:
    if expected_type in (str, int) and type(value) is expected_type:
        return value
    if expected_type == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if expected_type == dict[str, str] and isinstance(value, dict):
        return {key: str(item) for key, item in value.items()}
    descriptions = {str: "a string", int: "a whole number", tuple[str, ...]: "a list of strings"}
    raise UserError(f"{line}: must be {descriptions.get(expected_type, 'a table')}")


def minutes_of(time: str) -> int:
    """Convert a time in sbatch's notation to minutes: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if not match:
        raise ValueError("must be minutes, HH:MM:SS or D-HH:MM:SS")
    days, *rest = match.groups()
    first, second, third = (int(word or 0) for word in rest)
    if days is not None or rest[2] is not None:
        hours, minutes, seconds = first, second, third
    else:
        hours, minutes, seconds = 0, first, second
    return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)
