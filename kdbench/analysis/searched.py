"""Tell the trials of searches, and the runs of what they chose, from other records.

A trial is never compared: it was chosen among, and trained on fewer images. A run of chosen settings is in a row of its
own, by where the settings were chosen: *tuned per pair*, or *tuned on* one pair and kept on all others. A record may be
in several rows, since the default may be what was chosen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from kdbench.analysis.records import Records, UnfinishedCell
from kdbench.experiment.identity import identity_text
from kdbench.search.written import WrittenStudy

RATES = ("learning_rate", "network_learning_rate", "weight_decay")
"""Rules that a search may change."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What decides whether a cell is of a study."""

    method: str
    version: int
    teacher: str
    student: str
    seed: int
    rules: Mapping[str, Any]
    settings: Mapping[str, Any]
    chosen: Mapping[str, Any]


def is_trial(run: _Run, study: WrittenStudy) -> bool:
    """Return whether a cell is a trial of a study, or of one like it."""
    held_out = run.rules.get("validation") == study.protocol.get("validation")
    return held_out and run.seed in study.seeds and (run.method, run.version) == (study.method, study.method_version)


def tunings(run: _Run, studies: Sequence[WrittenStudy]) -> list[str]:
    """Return the rows of chosen settings in which a cell is; empty text for that of the settings which users gave."""
    names, plain = [], True
    for study in studies:
        if not _is_of(run, study):
            continue
        plain = plain and not study.chosen_rules and not study.space.keys() & run.chosen.keys()
        if (run.teacher, run.student) == (study.teacher, study.student):
            names.append(tuned_per_pair(study))
        if len(study.used_on) > 1:  # else nothing was kept on another pair
            names.append(tuned_on(study))
    return [*([""] if plain else []), *dict.fromkeys(names)]


def tuned_per_pair(study: WrittenStudy) -> str:
    """Return the row of settings that were chosen on the pair on which they are run."""
    return f"tuned per pair{_number(study)}"


def tuned_on(study: WrittenStudy) -> str:
    """Return the row of settings that were chosen on one pair, and kept as they are on all others."""
    return f"tuned on {study.pair}{_number(study)}"


def _number(study: WrittenStudy) -> str:
    return f", study {study.study}" if study.study > 1 else ""


def _is_of(run: _Run, study: WrittenStudy) -> bool:
    """Return whether a cell has the settings that a study chose, on whatever pair."""
    if study.settings is None or run.rules.get("validation"):
        return False
    data = ("name", "dataset")
    return (
        (run.teacher, run.student) in study.used_on
        and (run.method, run.version) == (study.method, study.method_version)
        and all(run.rules.get(key) == study.protocol.get(key) for key in data)
        and all(run.rules.get(key) == value for key, value in study.chosen_rules.items())
        and all(run.settings.get(name) == study.settings.get(name) for name in study.space)
        and {key: value for key, value in run.chosen.items() if key not in study.space} == study.fixed
    )


def with_searches(records: Records) -> Records:
    """Leave trials out, and add the column ``tuning``: the row of chosen settings in which a record is.

    A record that is in several rows is in the frame several times. Rules that were searched are those of the default.
    """
    studies = records.studies
    frame = records.frame.assign(tuning="")
    if not studies:
        return replace(records, frame=frame)
    unfinished = [each for cell in records.unfinished for each in _unfinished(cell, studies)]
    if frame.empty:
        return replace(records, frame=frame, unfinished=unfinished)
    runs = [_of_record(row) for row in frame[_COLUMNS].itertuples(index=False)]
    kept = [not any(is_trial(run, study) for study in studies) for run in runs]
    rows = [tunings(run, studies) if keep else [] for run, keep in zip(runs, kept, strict=True)]
    parts = []
    for name in dict.fromkeys(each for several in rows for each in several):
        part = frame[[name in several for several in rows]]
        parts.append(part.assign(tuning=name, **(_as_default(part, studies) if name else {})))
    ordered = sorted(parts, key=lambda part: bool(len(part) and part["tuning"].iloc[0]))
    combined = pd.concat(ordered, ignore_index=True) if ordered else frame.iloc[:0]
    return replace(records, frame=combined, unfinished=unfinished)


_COLUMNS = ["method", "method_version", "teacher_id", "student", "seed", "rules", "settings", "chosen"]


def _of_record(row: Any) -> _Run:
    rules, settings, chosen = (json.loads(str(text)) for text in (row.rules, row.settings, row.chosen))
    return _Run(row.method, row.method_version, row.teacher_id, row.student, row.seed, rules, settings, chosen)


def _as_default(part: pd.DataFrame, studies: Sequence[WrittenStudy]) -> dict[str, list[str]]:
    """Return columns of records with what was searched as it is by default: rules, overrides and changed settings."""
    columns: dict[str, list[str]] = {"rules": [], "overrides": [], "chosen": []}
    for row in part.itertuples(index=False):
        rules, overrides, chosen = (json.loads(str(text)) for text in (row.rules, row.overrides, row.chosen))
        study = next(each for each in studies if _is_of(_of_record(row), each))
        if study.chosen_rules:
            rules |= {key: study.protocol[key] for key in RATES if key in rules}
            overrides = {key: value for key, value in overrides.items() if key not in RATES}
        chosen = {key: value for key, value in chosen.items() if key not in study.space}
        for name, value in (("rules", rules), ("overrides", overrides), ("chosen", chosen)):
            columns[name].append(identity_text(value))
    return columns


def unfinished_runs(records: Records) -> list[UnfinishedCell]:
    """Return the unfinished cells that are not trials: a failed trial ranks last, and its search continues."""
    return [cell for cell in records.unfinished if _unfinished(cell, records.studies)]


def _unfinished(cell: UnfinishedCell, studies: Sequence[WrittenStudy]) -> list[UnfinishedCell]:
    """Return an unfinished cell once for each row in which it is; none of a trial."""
    config = cell.config
    settings = {key: value for key, value in config["method"].items() if key not in {"name", "version"}}
    run = _Run(
        config["method"]["name"],
        config["method"]["version"],
        config["teacher"].get("id", ""),
        config["student"],
        config["seed"],
        config["protocol"],
        settings,
        config.get("chosen", {}),
    )
    if any(is_trial(run, study) for study in studies):
        return []
    cells = []
    for name in tunings(run, studies):
        if not name:
            cells.append(cell)
        else:
            study = next(each for each in studies if _is_of(run, each))
            rules = {key: study.protocol[key] for key in RATES if key in config["protocol"] and study.chosen_rules}
            chosen = {key: value for key, value in run.chosen.items() if key not in study.space}
            changed = config | {"protocol": config["protocol"] | rules, "chosen": chosen, "tuning": name}
            cells.append(replace(cell, config=changed))
    return cells
