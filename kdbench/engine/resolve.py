"""From the names that a user gives to a cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.pairs import JOIN, TeacherSpec
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.registry import load_method, method_name, method_version
from kdbench.experiment.settings import resolve_settings
from kdbench.models import network_version
from kdbench.models.build import check_name
from kdbench.models.earlier import network_name
from kdbench.teachers.store import TeacherStore
from kdbench.utils.values import argument, text, whole_number


@final
@dataclass(frozen=True, slots=True)
class Names:
    """What a user says of a cell; see :meth:`kdbench.engine.session.Session.cell`."""

    method: str
    student: str
    teacher: str | TeacherRef | None
    seed: int
    settings: dict[str, Any] | None
    init: str


def resolve_cell(names: Names, protocol: Protocol, runs: Path, teachers: TeacherStore) -> Cell:
    """Find what the names mean under a protocol.

    Raises
    ------
    UserError
        A name or setting is unknown, there is no such teacher, or only cells of earlier versions have such a name.
    """
    with argument("--method"):
        method = method_name(text(names.method))
    with argument("--student"):
        student, refusal = network_name(text(names.student))
    with argument("--seed"):
        seed = whole_number(names.seed, 0, 2**31 - 1)
    kind = load_method(method)
    if kind.READS.teacher and not names.teacher:
        raise UserError(f"method {method} needs a teacher: name one with --teacher NETWORK")
    spec: TeacherSpec | TeacherRef | None = None
    if names.teacher is not None:
        with argument("--teacher"):
            spec = names.teacher if isinstance(names.teacher, TeacherRef) else TeacherSpec.parse(text(names.teacher))
    network = teachers.spelling(spec.network) if spec else None
    for name in (student, *(network.split(JOIN) if network else ())):
        check_name(name, protocol)
    resolved = resolve_settings(
        method, dataset=protocol.dataset, teacher=network, student=student, chosen=names.settings
    )
    ref = spec if isinstance(spec, TeacherRef) else None
    if isinstance(spec, TeacherSpec) and kind.READS.teacher:
        ref = teachers.named(spec)
    cell = Cell(
        protocol=protocol,
        teacher=ref if kind.READS.teacher else None,
        student=student,
        method=method,
        method_version=method_version(method, resolved.values()),
        settings=resolved,
        seed=seed,
        init=names.init,
        student_version=network_version(student),
    )
    if refusal and not cell.folder(runs).is_dir():
        raise refusal
    return cell
