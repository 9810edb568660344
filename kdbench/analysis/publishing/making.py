"""Write a folder of finished cells that a repository of results can take: records, configurations and a README."""

from __future__ import annotations

import getpass
import hashlib
import re
import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.analysis.publishing.folder import LIST, README, RECORDS, Publication, flaws, is_published, read_publication
from kdbench.analysis.publishing.readme import readme
from kdbench.analysis.publishing.searches import add_searches, search_files, studies_in
from kdbench.analysis.records import as_frame, folders_below
from kdbench.errors import UserError
from kdbench.experiment.folder import CONFIG, METRICS, PREDICTIONS, PRETRAINING, RECORD, parse_record
from kdbench.experiment.identity import METHOD_CODE, identity_text
from kdbench.experiment.own_code import CodeSource
from kdbench.utils.files import explain_os_errors, sha256_of, write_atomic
from kdbench.utils.names import safe_name
from kdbench.utils.reading import Missing, Unreadable, parse_json, read_bytes

_FILES = (RECORD, CONFIG, METRICS, PRETRAINING)
_REMEDY = "choose another folder with --out DIR"
_MACHINE = ("device", "device_type", "threads", "system")
"""What a record's environment says of the machine."""


@dataclass(slots=True)
class Published:
    """What publishing came to."""

    cells: int = 0
    """Cells in the folder."""
    added: int = 0
    replaced: int = 0
    """Cells whose earlier record was another one."""
    searches: int = 0
    """Searches in the folder."""
    left_out: list[str] = field(default_factory=list)
    """A line for each record that was not published, with the reason."""


def publish(runs: Path, out: Path, publisher: str | None) -> Published:
    """Write the finished cells below ``runs`` into ``out``, beside those that it has.

    Everything is read and checked before the first file is written. What is there and equal is not written again.

    Parameters
    ----------
    publisher
        Who publishes; that of the folder if not given.

    Raises
    ------
    UserError
        There is nothing to publish, ``out`` is no published folder or is damaged, or it cannot be written.
    """
    if not runs.is_dir():
        raise UserError(f"the folder {runs} does not exist: type the folder of runs whose cells are to be published")
    earlier = _earlier(out)
    if runs.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} lies in {runs}, whose records are read: {_REMEDY}")
    published = Published()
    cells = _changed_left_out(_cells(runs, published), published)
    if not cells:
        raise UserError(
            f"nothing to publish: {len(published.left_out):,} left out; {published.left_out[0]}"
            if published.left_out
            else f"no finished cells in {runs}: run 'kdbench train' or 'kdbench grid run' first"
        )
    files = {name: read_bytes(out / name) for name in (earlier.files if earlier else ()) if name != README}
    for place, contents in cells.items():
        record = f"{place}/{RECORD}"
        published.added += record not in files
        published.replaced += record in files and files[record] != contents[RECORD]
        for name in _FILES:
            files.pop(f"{place}/{name}", None)
        files |= {f"{place}/{name}": content for name, content in contents.items()}
    add_searches(files, search_files(runs, published.left_out), published.left_out)
    studies = studies_in(files)
    published.searches = len(studies)
    records = [parse_json(content.decode()) for name, content in sorted(files.items()) if name.endswith(f"/{RECORD}")]
    published.cells = len(records)
    hardware = _hardware(records)
    by = publisher if publisher is not None else earlier.publisher if earlier else ""
    num_predictions = sum("predictions" in record for record in records)
    files[README] = readme(as_frame(records), studies, by, hardware, num_predictions).encode()
    _write(
        out, files, Publication(by, hardware, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    )
    return published


def _earlier(out: Path) -> Publication | None:
    """Return what is published in a folder, which is whole; None for a new or empty one."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: {_REMEDY}")
    if is_published(out):
        if flaw := next(flaws(out), None):
            raise UserError(f"{flaw}: put it back, or {_REMEDY}")
        return read_publication(out)
    with explain_os_errors(out, _REMEDY):
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} has other files and no {LIST}: {_REMEDY}")
    return None


def _cells(runs: Path, published: Published) -> Iterator[tuple[str, dict[str, Any], dict[str, bytes]]]:
    """Yield the place, the record and the files of each finished cell that may be published."""
    private = _private(runs)
    places: dict[str, Path] = {}
    for text, names in folders_below(runs, published.left_out):
        folder = Path(text)
        if RECORD not in names:
            continue
        try:
            record = parse_record(folder / RECORD)
            contents = {name: read_bytes(folder / name) for name in _FILES if name == RECORD or name in names}
        except Missing:
            continue  # deleted meanwhile
        except Unreadable as error:
            published.left_out.append(f"{folder / RECORD} is left out: it {error}")
            continue
        place = _place(record)
        if other := places.get(place):
            raise UserError(f"two records of one cell: {other} and {folder}; move one of them away")
        places[place] = folder
        if reason := _reason(folder, record, contents, names, private):
            published.left_out.append(f"{folder / RECORD} is left out: {reason}")
        else:
            yield place, record, contents


def _place(record: Mapping[str, Any]) -> str:
    """Return where a cell is in the folder, by what its record says."""
    config = record["config"]
    pair = f"{config['teacher'].get('network', 'none')}-{config['student'].partition('@')[0]}"
    names = (config["protocol"]["name"], pair, config["method"]["name"])
    return "/".join([RECORDS, *map(safe_name, names), f"seed{config['seed']}-{record['cell'][:8]}"])


def _reason(
    folder: Path, record: Mapping[str, Any], contents: Mapping[str, bytes], names: set[str], private: Mapping[str, str]
) -> str:
    """Return why a record is not published; empty if it is."""
    if source := _changed_code(record):
        return f"{source.where} has changed since: put it back, or raise its VERSION and run the cell again"
    if PREDICTIONS in names and (digest := record.get("predictions")):
        try:
            if sha256_of(folder / PREDICTIONS) != digest:
                return f"{PREDICTIONS} beside it is not the file that it was written with"
        except OSError as error:
            return f"{PREDICTIONS} beside it cannot be read: {error.strerror}"
    for name, content in contents.items():
        for what, text in private.items():
            if re.search(rf"(?<![\w.-]){re.escape(text)}(?![\w.-])", content.decode(errors="replace")):
                return f"its {name} holds the {what} {text}"
    return ""


def _changed_code(record: Mapping[str, Any]) -> CodeSource | None:
    """Return what of the user's code has changed since a record was made."""
    teacher = record["teacher"] or {}
    members = teacher.get("members", [teacher])
    texts = [record.get(name, "") for name in (*METHOD_CODE, "student_source")]
    texts += [member.get("source", "") for member in members]
    if not any("sha256:" in str(text) for text in texts):  # nothing of the user's own
        return None
    from kdbench.experiment.registry import method_sources  # noqa: PLC0415 - it needs torch
    from kdbench.models import own_network  # noqa: PLC0415 - it needs torch

    networks = record["student"].partition("@")[0], *(member.get("network", "") for member in members)
    method = record["config"]["method"]
    methods = method["name"], method["base"] if "base_source" in record else ""
    sources = *map(method_sources().get, methods), *map(own_network, networks)
    pairs = zip(sources, texts, strict=True)
    return next((source for source, text in pairs if source and source.changed_since(str(text))), None)


def _private(runs: Path) -> dict[str, str]:
    """Return what belongs to this machine alone and is not published."""
    places = {"home folder": str(Path.home()), "folder of runs": str(runs.resolve()), "host name": socket.gethostname()}
    return {what: text for what, text in places.items() if len(text) > 1 and text != getpass.getuser()}


def _changed_left_out(
    cells: Iterator[tuple[str, dict[str, Any], dict[str, bytes]]], published: Published
) -> dict[str, dict[str, bytes]]:
    """Return files by place, without records of methods whose code differs under one VERSION."""
    kept, codes = {}, defaultdict[tuple[str, str, int], set[str]](set)
    for place, record, contents in cells:
        method = record["config"]["method"]
        key = method["name"], method["base"] if "base_source" in record else "", method["version"]
        codes[key].add("".join(str(record.get(name, "")).partition("sha256:")[2] for name in METHOD_CODE))
        kept[place] = (key, contents)
    for (name, _, version), hashes in codes.items():
        if len(hashes) > 1:
            published.left_out.append(
                f"records of {name} are left out: their code differs under VERSION {version}; publish those of one code"
            )
    return {place: contents for place, (key, contents) in kept.items() if len(codes[key]) == 1}


def _hardware(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each machine and software that records name, with its cells and hours, most cells first."""
    machines: dict[str, dict[str, Any]] = {}
    for record in records:
        environment = record["environment"]
        versions = {name: environment["versions"].get(name) for name in ("kdbench", "torch", "python")}
        machine = {name: environment.get(name) for name in (*_MACHINE, "commit", "dirty")} | versions
        row = machines.setdefault(identity_text(machine), machine | {"cells": 0, "hours": 0.0})
        row["cells"] += 1
        row["hours"] += record["cost"]["train_seconds"] / 3600
    rows = [row | {"hours": round(row["hours"], 3)} for _, row in sorted(machines.items())]
    return sorted(rows, key=lambda row: -row["cells"])


def _write(out: Path, files: Mapping[str, bytes], publication: Publication) -> None:
    """Write what is new or differs, the list last."""
    for name, content in {**files, LIST: publication.text().encode()}.items():
        try:
            same = read_bytes(out / name) == content
        except Unreadable:
            same = False
        if not same:
            write_atomic(out / name, content, _REMEDY)
