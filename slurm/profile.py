"""Profiles: what a cluster's jobs ask for, as a TOML file."""

from __future__ import annotations

import re
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdbench.errors import UserError

Stage = Literal["teacher", "cache", "students"]
EXAMPLES = Path(__file__).parent / "profiles"
STAGES: tuple[Stage, ...] = typing.get_args(Stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one job asks for, and how a stage is cut into jobs. What is left out is the cluster's default."""

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
    """Jobs of one stage that run at a time, at most."""
    cells_per_job: int = 1
    together: int = 1
    """Cells of a job in lockstep on its one device, at most."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the job, e.g. ``module load cuda``."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Further options of sbatch, e.g. ``constraint = "a100"``."""

    @property
    def minutes(self) -> int:
        """The time limit in minutes."""
        return minutes_of(self.time)


@dataclass(frozen=True, slots=True)
class Profile:
    """The resources of each stage."""

    path: str
    stages: dict[Stage, Resources]


def load_profile(path: Path) -> Profile:
    """Read a profile: keys for all stages, and tables ``[teacher]``, ``[cache]``, ``[students]`` for what differs.

    Raises
    ------
    UserError
        It is not there, is no TOML, or holds something unknown or of the wrong kind.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no profile {path}: {EXAMPLES} has two examples, with comments") from None
    except (IsADirectoryError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"profile {path} is not TOML: {error}") from None
    tables = {stage: values.pop(stage, {}) for stage in STAGES}
    for stage, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"profile {path}: {stage} = {table!r} must be a table [{stage}]")
    return Profile(str(path), {stage: _resources(path, values | table) for stage, table in tables.items()})


def profile_from(values: dict[str, Any]) -> Profile:
    """Return the profile that ``dataclasses.asdict`` made plain values of."""
    stages = {stage: Resources(**kept | {"setup": tuple(kept["setup"])}) for stage, kept in values["stages"].items()}
    return Profile(values["path"], stages)


def _resources(path: Path, values: dict[str, Any]) -> Resources:
    kinds = typing.get_type_hints(Resources)
    made: dict[str, Any] = {}
    for key, value in values.items():
        line = f"profile {path}: {key} = {value!r}"
        if key not in kinds:
            raise UserError(f"{line}: unknown key: known are {', '.join(kinds)} and the tables {', '.join(STAGES)}")
        in_minutes = key == "time" and type(value) is int
        made[key] = str(value) if in_minutes else _typed(line, value, kinds[key])
    resources = Resources(**made)
    for name in ("cpus", "parallelism", "cells_per_job", "together"):
        if getattr(resources, name) < 1:
            raise UserError(f"profile {path}: {name} = {getattr(resources, name)}: must be at least 1")
    try:
        minutes = resources.minutes
    except ValueError as error:
        raise UserError(f"profile {path}: time = {resources.time!r}: {error}") from None
    if minutes < 2:
        raise UserError(f"profile {path}: time = {resources.time!r}: a job needs at least 2 minutes")
    return resources


def _typed(line: str, value: Any, kind: Any) -> Any:
    if kind in (str, int) and type(value) is kind:
        return value
    if kind == tuple[str, ...] and isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    if kind == dict[str, str] and isinstance(value, dict):
        return {key: str(word) for key, word in value.items()}
    what = {str: "a text", int: "a whole number", tuple[str, ...]: "a list of lines"}.get(kind, "a table")
    raise UserError(f"{line}: must be {what}")


def minutes_of(time: str) -> int:
    """Minutes of a time in sbatch's notation: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if not found:
        raise ValueError("must be minutes, HH:MM:SS or D-HH:MM:SS")
    days, *rest = found.groups()
    first, second, third = (int(word or 0) for word in rest)
    if days is not None or rest[2] is not None:
        hours, minutes, seconds = first, second, third
    else:
        hours, minutes, seconds = 0, first, second
    return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)
