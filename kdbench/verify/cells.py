"""From a record back to the cell that left it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.protocol import protocol_of
from kdbench.experiment.registry import method_version
from kdbench.experiment.settings import resolve_settings
from kdbench.models import network_version


def cell_of(record: Mapping[str, Any]) -> Cell:
    """Return the cell of a record.

    Raises
    ------
    UserError
        This kdbench has no such cell: its method, its network or its rules have changed, or are not here.
    """
    config = record["config"]
    name, version = config["method"]["name"], config["method"]["version"]
    student, _, init = config["student"].partition("@")
    teacher = TeacherRef(**config["teacher"]) if config["teacher"] else None
    protocol = protocol_of(config["protocol"], f"the record of cell {record['cell'][:8]}")
    for what, then, now in (
        (f"method {name}", version, method_version(name, config["method"])),
        (f"network {student}", config.get("student_version"), network_version(student)),
    ):
        if then != now:
            raise UserError(f"it is of version {then} of {what}, which has version {now} here")
    chosen = {key: value for key, value in config["method"].items() if key not in {"name", "version"}}
    network = teacher.network if teacher else None
    cell = Cell(
        protocol=protocol,
        teacher=teacher,
        student=student,
        method=name,
        method_version=version,
        settings=resolve_settings(name, dataset=protocol.dataset, teacher=network, student=student, chosen=chosen),
        seed=config["seed"],
        init=init,
        student_version=config.get("student_version"),
    )
    if cell.id != record["cell"]:
        raise UserError("its rules or settings are not those that this kdbench has: use the version in its record")
    return cell
