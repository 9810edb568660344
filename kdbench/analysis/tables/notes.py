"""Write the notes below tables of a comparison: epoch, teachers, unequal compute, and where records come from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from kdbench.analysis.comparison import MEASURES, ComparedPair, Comparison, Reported, Row
from kdbench.analysis.stats.paired import TOLERANCE
from kdbench.analysis.tables.entries import BEST_ON_TEST, fixed
from kdbench.analysis.tables.table import Entry
from kdbench.config import BASE
from kdbench.experiment.pairs import JOIN, LOGITS, TeacherSpec
from kdbench.teachers.doubts import ENSEMBLE, FILE, UNCHECKED, at_chance, below_student, trained_for
from kdbench.utils.guessing import is_guess
from kdbench.utils.text import counted


def measure_note(comparison: Comparison, reported: Reported) -> str:
    """Describe what is reported of a comparison: data set, unit and epoch."""
    data, epochs = comparison.dataset, counted(comparison.rules["epochs"], "epoch")
    if reported == "best":
        return f"top-1 on the test set of {data} in % in the best of {epochs}; {BEST_ON_TEST}"
    if reported == "validation":
        return f"top-1 on the test set of {data} in % in that of {epochs} which is best on the held-out images"
    means = {
        "balanced_accuracy": ", the mean of the accuracies of its classes; accuracies of teachers are top-1",
        "macro_f1": ", the mean of the F1 of its classes; accuracies of teachers are top-1",
    }.get(reported, "")
    return f"{MEASURES[reported]} on the test set of {data} in % after the last of {epochs}{means}"


def label_entry(comparison: Comparison, row: Row, notes: tuple[str, ...] = ()) -> Entry:
    """Make an entry of the label of a row, with a note if its method was run in several variants."""
    number = comparison.num_variants[row.method]
    choice = (
        f"one of {number} variants of {row.name} that were run: to choose one by these accuracies is a choice on the "
        "test set, and biased upwards"
    )
    return Entry(row.label, notes=(*notes, choice) if number > 1 and not (row.epochs or row.tuning) else notes)


def teacher_notes(comparison: Comparison) -> list[str]:
    """Return a note with the accuracy and the hash of the weights of each teacher, and the warnings about them."""
    teachers = {
        (pair.teacher_id, pair.teacher_weights): f"{pair.teacher_network} {teacher_accuracy(pair)} ({pair.hashes})"
        for pair in comparison.pairs
        if pair.teacher
    }
    notes = [f"teachers: {', '.join(teachers.values())}"] if teachers else []
    return notes + warnings(comparison, comparison.pairs)


def _kinds(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return notes on teachers that are not one network which sees the student's images."""
    notes = []
    for pair in pairs:
        members = pair.teacher.split(JOIN)
        words = [ENSEMBLE] if len(members) > 1 else []
        words += [f"{name}: {FILE}" if len(members) > 1 else FILE for name in members if name.startswith(LOGITS)]
        for member in TeacherSpec.parse(pair.teacher).members if pair.teacher else ():
            if member.epochs:
                words.append(f"{member.network} {trained_for(int(member.epochs))}")
        sides = {side for frame in _frames(comparison, [pair]) for side in frame["teacher_side"].unique() if side}
        words += [f"images of {side} x {side}, resized from the student's crops" for side in sorted(sides)]
        notes += [f"the teacher {pair.teacher_label}: {each}" for each in words]
    return list(dict.fromkeys(notes))


def _frames(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[pd.DataFrame]:
    """Return the records of each row on some pairs that have a teacher."""
    results = [comparison.result(row, pair) for pair in pairs for row in comparison.rows]
    frames = [result.frame for result in results if result and len(result.frame)]
    return [frame for frame in frames if frame["teacher"].iloc[0]]


def warnings(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return notes on teachers that are no usual ones, and on what makes results of some pairs doubtful."""
    notes = _kinds(comparison, pairs) + _held_out(comparison, pairs) + _teacher_warnings(comparison, pairs)
    return notes + guessing_notes(comparison, pairs)


def _held_out(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return a note on images that are held out, and on the teachers that have seen them."""
    share = comparison.rules.get("validation")
    if not share:
        return []
    seen = [
        pair.teacher_label
        for pair in pairs
        if any((frame["teacher_validation"] != share).any() for frame in _frames(comparison, [pair]))
    ]
    teachers = f"; the teacher {', '.join(dict.fromkeys(seen))} was trained on them as well" if seen else ""
    return [f"{100 * share:g} % of the training images of each class are held out{teachers}"]


def guessing_notes(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return notes on teachers and methods that cannot be told from guessing; none where the test set is unknown."""
    frames = (result.frame for result in comparison.results.values() if len(result.frame))
    sizes = ((int(frame["test_images"].iloc[0]), int(frame["largest_class"].iloc[0])) for frame in frames)
    images, largest = next((size for size in sizes if size[0]), (0, 0))
    if not images:
        return []
    subjects = [
        f"the teacher {pair.teacher_label} ({teacher_accuracy(pair)})"
        for pair in pairs
        if pair.teacher and math.isfinite(pair.teacher_accuracy) and is_guess(pair.teacher_accuracy, images, largest)
    ]
    places: dict[tuple[str, ...], list[str]] = {}
    for pair in pairs:
        results = {row: result.frame for row in comparison.rows if (result := comparison.result(row, pair))}
        guessed = [
            row.label
            for row, frame in results.items()
            if len(frame) and all(is_guess(top1, images, largest) for top1 in frame["top1"])
        ]
        if guessed:
            places.setdefault(tuple(guessed), []).append(pair.name)
    subjects += [f"{', '.join(rows)} on {'; '.join(names)}" for rows, names in places.items()]
    return [f"{at_chance(images, largest)}: {each}" for each in dict.fromkeys(subjects)]


def _teacher_warnings(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return notes on teachers' own runs that are left out, and on teachers that were not checked or are too weak."""
    students = {pair.student: pair.student_label for pair in pairs}
    notes = [
        f"the own run of the teacher {students[network]} (seed {seed}) is not a run of the student {students[network]}"
        for network, seed in comparison.teacher_runs
        if network in students
    ]
    for pair in pairs:
        result = comparison.student_only and comparison.result(comparison.student_only, pair)
        accuracies = list(result.values().values()) if result else []
        mean = sum(accuracies) / len(accuracies) if accuracies else math.nan
        if pair.teacher and pair.teacher_accuracy <= mean + TOLERANCE:
            notes.append(f"{pair.name}: the teacher ({teacher_accuracy(pair)}) is {below_student(mean)}")
    unchecked = [
        f"the teacher {pair.teacher_label} ({teacher_accuracy(pair)})"
        for pair in pairs
        if any(frame["teacher_unchecked"].any() for frame in _frames(comparison, [pair]))
    ]
    return notes + [f"{UNCHECKED}: {each}" for each in dict.fromkeys(unchecked)]


def teacher_accuracy(pair: ComparedPair) -> str:
    """Write the accuracy of a teacher in percent, and those of records that disagree."""
    values = (pair.teacher_accuracy, *pair.other_accuracies)
    if all(map(math.isnan, values)):
        return "accuracy unknown"
    return f"{' or '.join(fixed(value) or '?' for value in values)} %"


def provenance(comparison: Comparison) -> list[str]:
    """Return notes on where records come from, and on methods without published settings."""
    unpublished = sorted(
        row.label
        for row in comparison.rows
        if row != comparison.student_only and not (row.epochs or row.tuning) and _is_unpublished(comparison, row)
    )
    frames = [result.frame for result in comparison.results.values()]
    devices, torch, commits = (
        ", ".join(sorted({value for frame in frames for value in frame[column].unique()}))
        for column in ("device", "torch", "commit")
    )
    codes = defaultdict(set)
    for row in comparison.rows:
        if row.views:
            codes[row.method, row.changed.get(BASE), row.version].add(row.code)
    changed = sorted({method for (method, *_), hashes in codes.items() if len(hashes) > 1})
    notes = [
        f"no published settings for these pairs, defaults used: {', '.join(unpublished)}" if unpublished else "",
        f"rows of their own for records of {', '.join(changed)} whose code differs under one VERSION"
        if changed
        else "",
        f"run on {devices}; torch {torch}; kdbench commit {commits}",
    ]
    return [note for note in notes if note]


def _is_unpublished(comparison: Comparison, row: Row) -> bool:
    return any(
        source.startswith("defaults") and "no published" in source
        for result in comparison.results_of(row)
        for source in result.frame["source"].unique()
    )
