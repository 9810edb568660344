"""Find the pairs of a comparison, and name their teachers so that each can be told from the others."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from kdbench.analysis.comparison import ComparedPair, num_digits, position
from kdbench.analysis.records import UnfinishedCell
from kdbench.experiment.pairs import usual_pairs


def find_pairs(frame: pd.DataFrame, unfinished: Sequence[UnfinishedCell]) -> tuple[ComparedPair, ...]:
    """Return the pairs of all records and unfinished cells, and the students that have no teacher in any of them."""
    columns = ["teacher", "student", "teacher_id", "teacher_weights"]
    pairs = [ComparedPair(*key) for key in frame[columns].drop_duplicates().itertuples(index=False)]
    keys = {(pair.student, pair.teacher_id) for pair in pairs}
    names = {pair.teacher_id: pair.teacher for pair in pairs}
    weights = defaultdict(set)
    for pair in pairs:
        weights[pair.teacher_id].add(pair.teacher_weights)
    for cell in unfinished:
        teacher = cell.config["teacher"]
        key = cell.config["student"], teacher.get("id", "")
        if teacher and key not in keys:
            keys.add(key)
            known = weights[key[1]]  # a configuration does not say them, records of other students may
            pairs.append(
                ComparedPair(names.get(key[1], teacher["network"]), *key, next(iter(known)) if len(known) == 1 else "")
            )
    with_teacher = {pair.student for pair in pairs if pair.teacher}
    pairs = [pair for pair in pairs if pair.teacher or pair.student not in with_teacher]
    usual = list(map(str, usual_pairs()))
    ordered = sorted(pairs, key=lambda pair: (position(f"{pair.teacher}>{pair.student}", usual), pair))
    return _with_accuracies(_with_labels(ordered), frame)


def _with_labels(pairs: Sequence[ComparedPair]) -> list[ComparedPair]:
    """Add labels that tell teachers apart: by the hash of their weights, and by their id if that is not enough."""
    teachers = {(pair.teacher, pair.teacher_id, pair.teacher_weights) for pair in pairs}
    networks = Counter(network for network, _, _ in teachers)
    copies = Counter((network, weights) for network, _, weights in teachers)
    num_weights = num_digits(pair.teacher_weights for pair in pairs)
    num_id = num_digits(pair.id_hash for pair in pairs)
    labelled = []
    for pair in pairs:
        weights = f"weights {pair.teacher_weights[:num_weights]}" if pair.teacher_weights else ""
        is_copy = copies[pair.teacher, pair.teacher_weights] > 1 or not weights
        hashes = ", ".join(filter(None, (weights, f"id {pair.id_hash[:num_id]}" if is_copy else "")))
        label = f"{pair.teacher} ({hashes})" if networks[pair.teacher] > 1 else pair.teacher
        labelled.append(replace(pair, hashes=hashes, teacher_label=label, student_label=pair.student))
    return labelled


def _with_accuracies(pairs: Sequence[ComparedPair], frame: pd.DataFrame) -> tuple[ComparedPair, ...]:
    """Add the accuracies of teachers that their records hold, the most frequent one first."""
    accuracies: dict[tuple[str, str], list[float]] = {}
    for key, values in frame.groupby(["teacher_id", "teacher_weights"])["teacher_accuracy"]:
        counts = Counter(round(float(value), 2) for value in values if not math.isnan(value))
        accuracies[key] = sorted(counts, key=lambda value: (-counts[value], value))  # type: ignore[index]
    added = []
    for pair in pairs:
        first, *others = accuracies.get((pair.teacher_id, pair.teacher_weights)) or [math.nan]
        added.append(replace(pair, teacher_accuracy=first, other_accuracies=tuple(others)))
    return tuple(added)
