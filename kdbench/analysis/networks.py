"""Name networks: users' networks of one name are told apart by VERSION or code, and a teacher has one name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from kdbench.analysis.records import NO_VERSION, Records
from kdbench.experiment.pairs import TeacherSpec

_Network = tuple[str, int, str]
"""Name, VERSION and hash of the code."""


def told_apart(records: Records) -> Records:
    """Return records whose networks have names of their own where they differ: ``mine (version 2)``.

    Of an unfinished cell only the version of its student is known: it counts as a cell of the first code of it.
    """
    frame = records.frame
    if frame.empty or not (frame["student_code"].any() or frame["teacher_code"].any()):
        return records
    students = list(zip(frame["student"], frame["student_version"], frame["student_code"], strict=True))
    begun = [(cell.config["student"], cell.config.get("student_version", NO_VERSION)) for cell in records.unfinished]
    codes: dict[tuple[str, int], str] = {}
    for name, version, code in sorted(set(students), reverse=True):
        codes[name, version] = code
    unfinished = [(*key, codes.get(key, "")) for key in begun]
    labels = _labels((*students, *unfinished))
    teachers = [(name, NO_VERSION, code) for name, code in zip(frame["teacher"], frame["teacher_code"], strict=True)]
    teacher_labels = _labels(teachers)
    return replace(
        records,
        frame=frame.assign(
            student=[labels[network] for network in students],
            teacher=[teacher_labels[network] for network in teachers],
        ),
        unfinished=[
            replace(cell, config=cell.config | {"student": labels[network]})
            for cell, network in zip(records.unfinished, unfinished, strict=True)
        ],
    )


def named_alike(records: Records) -> Records:
    """Return records in which each teacher has one name: those of earlier versions do not say for how many epochs."""
    frame = records.frame
    if frame.empty:
        return records
    networks = {name: TeacherSpec.parse(name).network if name else "" for name in frame["teacher"].unique()}
    teachers = frame["teacher"].map(networks) + " " + frame["teacher_id"]
    names = frame.groupby(teachers)["teacher"].max()  # the one with its epochs sorts last
    return replace(records, frame=frame.assign(teacher=teachers.map(names)))


def _labels(networks: Iterable[_Network]) -> dict[_Network, str]:
    distinct = set(networks)
    versions: defaultdict[str, set[int]] = defaultdict(set)
    codes: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for name, version, code in distinct:
        versions[name].add(version)
        codes[name, version].add(code)
    labels = {}
    for network in distinct:
        name, version, code = network
        words = [f"version {version}"] if len(versions[name]) > 1 and version != NO_VERSION else []
        words += [f"code {code}"] if len(codes[name, version]) > 1 and code else []
        labels[network] = f"{name} ({', '.join(words)})" if words else name
    return labels
