"""Put students that were trained for longer without a teacher beside those that a teacher taught.

Such runs are controls: what the student reaches alone at the compute of a method. They are under other rules, of which
they stay a comparison of their own wherever a student of theirs was also taught under these.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdbench.analysis.records import UnfinishedCell
from kdbench.experiment.identity import identity_text


def protocol_of(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rules of a protocol among those of records."""
    return {key: value for key, value in rules.items() if key not in {"data", "epoch_rule"}}


def with_controls(
    frame: pd.DataFrame, unfinished: Sequence[UnfinishedCell]
) -> tuple[pd.DataFrame, list[tuple[str, UnfinishedCell]]]:
    """Move the records and unfinished cells of controls to the comparisons in which they are rows.

    Parameters
    ----------
    frame
        Records, without those of teachers' own runs.

    Returns
    -------
    frame
        The records, those of controls behind all others and under the ``rules`` of their comparison, once for each.
    cells
        The unfinished cells, each with the rules of the protocol in whose comparison it is, as JSON.
    """
    by_rules = {text: json.loads(text) for text in frame["rules"].unique()}
    protocols = {text: identity_text(protocol_of(rules)) for text, rules in by_rules.items()}
    keys = list(zip(frame["rules"], frame["student"], strict=True))
    cells = [(identity_text(cell.config["protocol"]), cell) for cell in unfinished]
    runs = [
        (protocols[text], student, bool(teacher))
        for (text, student), teacher in zip(keys, frame["teacher"], strict=True)
    ]
    runs += [(text, cell.config["student"], bool(cell.config["teacher"])) for text, cell in cells]
    shorter = _shorter(dict.fromkeys(runs), set(protocols.values()))
    if not shorter:
        return frame, cells
    targets = {
        (text, student): [
            other
            for other, rules in by_rules.items()
            if protocols[other] in shorter.get((protocols[text], student), ())
            and all(rules[key] == by_rules[text][key] for key in ("data", "epoch_rule"))
        ]
        for text, student in dict.fromkeys(keys)
    }
    places = [(number, text) for number, (text, student) in enumerate(keys) if not targets[text, student]]
    places += [(number, target) for number, key in enumerate(keys) for target in targets[key]]
    numbers, rules = zip(*places, strict=True)
    frame = frame.iloc[list(numbers)].reset_index(drop=True).assign(rules=pd.Series(rules, dtype=object))
    return frame, [
        (target, cell) for text, cell in cells for target in shorter.get((text, cell.config["student"]), [text])
    ]


def _shorter(runs: Iterable[tuple[str, str, bool]], compared: Collection[str]) -> dict[tuple[str, str], list[str]]:
    """Find for each student that no teacher taught under some rules those of fewer epochs under which one did.

    Parameters
    ----------
    runs
        The rules of a protocol as JSON, a student, and whether a teacher taught it.
    compared
        The rules of which there is a record.

    Returns
    -------
    dict
        By rules and student, those that have such rules of fewer epochs.
    """
    runs = list(runs)
    taught = {(text, student) for text, student, is_taught in runs if is_taught}
    values = {text: json.loads(text) for text, _, _ in runs}
    others = {text: identity_text(rules | {"epochs": 0}) for text, rules in values.items()}
    by_others: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for text, student in sorted(taught):
        if text in compared:
            by_others[others[text], student].append(text)
    shorter = {
        (text, student): [
            other for other in by_others[others[text], student] if values[other]["epochs"] < values[text]["epochs"]
        ]
        for text, student, _ in runs
        if (text, student) not in taught
    }
    return {key: texts for key, texts in shorter.items() if texts}
