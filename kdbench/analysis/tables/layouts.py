"""Lay out a comparison as a table: all metrics of one pair, or methods x pairs as in papers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd

from kdbench.analysis.comparison import MEASURES, ComparedPair, Comparison, Reported, Result, Row
from kdbench.analysis.stats.paired import TOLERANCE, t_interval
from kdbench.analysis.tables.compute import compute_notes, heavy_logit_notes, logit_notes
from kdbench.analysis.tables.entries import LEVEL, accuracy, difference, fixed, gain, with_difference
from kdbench.analysis.tables.notes import (
    label_entry,
    measure_note,
    provenance,
    teacher_accuracy,
    teacher_notes,
    warnings,
)
from kdbench.analysis.tables.searches import search_notes
from kdbench.analysis.tables.table import MISSING, Entry, Mark, Table, words
from kdbench.utils.text import counted, inflected

Marks = Literal["clear", "all", "none"]
"""When best and second best are marked: if the interval to the next best excludes zero, always, or never."""
_MAX_SEEDS = 10
"""Largest number of seeds that a note lists."""
_RULES: dict[Marks, str] = {
    "clear": f"bold: best; underlined: second best; only methods with all records, and only if the {LEVEL} % interval "
    "of the paired difference to the next best excludes zero",
    "all": "bold: best; underlined: second best; only methods with all records; the difference to the next best need "
    "not be significant",
    "none": "",
}

_APART = "best and second best are marked apart among rows of default settings and among those of each kind of tuning"


def detail(
    comparison: Comparison, pair: ComparedPair, reported: Reported = "last", baseline: Row | None = None
) -> Table:
    """Make a table of all metrics of one pair: the baseline, then one row per method, the best method last.

    Parameters
    ----------
    baseline
        Row that gains refer to; by default the student-only baseline.
    """
    base = baseline or comparison.student_only
    base_result = comparison.result(base, pair) if base else None
    reference = base_result.values(reported) if base_result else {}
    results = [(row, result) for row in comparison.rows if (result := comparison.result(row, pair))]
    results.sort(key=lambda item: (item[0] != base, pd.Series(item[1].values(reported), dtype=float).mean()))
    rows = []
    for row, result in results:
        frame = result.frame
        values, base_values = result.values(reported), reference if row != base else {}
        rows.append(
            (
                label_entry(comparison, row),
                replace(accuracy(values, reported), notes=_missing_notes(result, comparison.seeds(pair), len(frame))),
                Entry(str(len(frame))),
                replace(gain(difference(values, base_values)), notes=_gap_notes("gain", values, base_values)),
                *(_mean(frame[name], digits) for name, digits in _METRICS.items()),
                views_entry(row),
                _forwards_per_image(frame),
                _mean(frame["train_seconds"] / frame["epochs"], 2),
            )
        )
    measure = f"{MEASURES[reported]} %"
    heads = ("method", measure, "n", "gain", "NLL", "ECE %", "agree %", "KL", "views", "teacher", "s/epoch")
    return Table(
        f"{comparison.title}: {_pair_title(pair)}",
        (heads,),
        tuple(rows),
        (
            f"{measure_note(comparison, reported)}; mean ± standard deviation (ddof 1) over n seeds",
            *([f"gain: over {base.label}, paired by seed, with its {LEVEL} % t interval"] if base else []),
            "agree: predictions equal to the teacher's; KL: KL(teacher || student), in nats",
            *(["NLL, ECE, agree and KL: after the last epoch"] if reported in {"best", "validation"} else []),
            "views: views per image and step; teacher: teacher forward passes per image and epoch, 0 with a cache",
            *compute_notes(comparison, [pair]),
            *logit_notes(comparison, [pair]),
            *warnings(comparison, [pair]),
            *search_notes(comparison, [pair]),
        ),
    )


_METRICS = {"nll": 3, "ece": 2, "agreement": 2, "teacher_kl": 3}


def paper(
    comparison: Comparison,
    baseline: Row | None = None,
    marks: Marks = "clear",
    reported: Reported = "last",
) -> Table:
    """Make a table of methods x pairs, with the teachers and students on top and methods grouped by family.

    Parameters
    ----------
    baseline
        Row that differences refer to; by default the student-only baseline.
    marks
        When best and second best are marked.
    """
    baseline = baseline or comparison.student_only
    rows = [row for row in comparison.rows if row != comparison.student_only]
    complete = {row for row in rows if comparison.complete(row)}
    sizes = [len(result.frame) for row in rows or comparison.rows for result in comparison.results_of(row)]
    counts = Counter(filter(None, sizes))
    usual = counts.most_common(1)[0][0] if counts else 0
    columns = []
    for pair in comparison.pairs:
        results = {row: comparison.result(row, pair) for row in rows}
        values = {row: result.values(reported) if result else {} for row, result in results.items()}
        reference = comparison.result(baseline, pair) if baseline else None
        row_marks: dict[Row, Mark] = {}
        for tuning in {row.tuning for row in complete}:  # settings of another origin had other chances
            row_marks |= best_two({row: values[row] for row in rows if row in complete and row.tuning == tuning}, marks)
        columns.append(
            [
                _cell(
                    values[row],
                    reference.values(reported) if reference and row != baseline else {},
                    row_marks.get(row, ""),
                    _missing_notes(results[row], comparison.seeds(pair), usual),
                    reported,
                )
                for row in rows
            ]
        )
    lines = [(*words("", "Teacher"), *map(_teacher_entry, comparison.pairs))]
    keys: list[Row | None] = [None]
    if comparison.student_only:
        students = [(pair, comparison.result(comparison.student_only, pair)) for pair in comparison.pairs]
        entries = [
            _cell(
                result.values(reported) if result else {},
                {},
                "",
                _missing_notes(result, comparison.seeds(pair), usual),
                reported,
            )
            for pair, result in students
        ]
        lines.append((*words("", "Student"), *entries))
        keys.append(comparison.student_only)
    families = [row.family for row in rows]
    for number, row in enumerate(rows):
        first = number == 0 or families[number - 1] != row.family
        labels = Entry(row.family if first else ""), label_entry(comparison, row)
        lines.append((*labels, *(column[number] for column in columns)))
    heads = (
        ("", "teacher", *(pair.teacher_label or MISSING for pair in comparison.pairs)),
        ("", "student", *(pair.student_label for pair in comparison.pairs)),
    )
    return Table(
        comparison.title,
        heads,
        tuple(lines),
        tuple(filter(None, _paper_notes(comparison, baseline, marks, reported, usual))),
        num_labels=2,
        grouped=True,
        keys=(*keys, *rows),
    )


def best_two(values: Mapping[Row, Mapping[int, float]], marks: Marks) -> dict[Row, Mark]:
    """Mark the best and the second best rows of a column, as far as the rule allows it; equal rows share a mark."""
    means = {row: sum(by_seed.values()) / len(by_seed) for row, by_seed in values.items() if by_seed}
    groups: list[list[Row]] = []
    for row in sorted(means, key=lambda row: -means[row]):
        if groups and means[groups[-1][0]] - means[row] <= TOLERANCE:
            groups[-1].append(row)
        else:
            groups.append([row])
    row_marks: dict[Row, Mark] = {}
    names: tuple[Mark, ...] = ("best", "second")
    for place, (mark, group) in enumerate(zip(names, groups, strict=False)):
        if marks == "none" or (marks == "clear" and not _is_clear(values, group, groups[place + 1 : place + 2])):
            break
        row_marks |= dict.fromkeys(group, mark)
    return row_marks


def _is_clear(values: Mapping[Row, Mapping[int, float]], group: Sequence[Row], next_best: Sequence[list[Row]]) -> bool:
    """Return whether a row is alone, and the intervals of its differences to all of the next best lie above zero."""
    if len(group) > 1 or not next_best:
        return False
    gaps = [list(difference(values[group[0]], values[row]).values()) for row in next_best[0]]
    return all(gap and t_interval(gap, LEVEL / 100).low > 0 for gap in gaps)


def _cell(
    values: Mapping[int, float],
    reference: Mapping[int, float],
    mark: Mark,
    notes: tuple[str, ...],
    reported: Reported,
) -> Entry:
    gaps = difference(values, reference)
    entry = replace(accuracy(values, reported), mark=mark, notes=notes + _gap_notes("difference", values, reference))
    if not gaps:
        return entry
    entry = with_difference(entry, sum(gaps.values()) / len(gaps))
    return replace(entry, numbers=dict(entry.numbers) | {"difference n": str(len(gaps))})


def _missing_notes(result: Result | None, seeds: set[int], usual: int) -> tuple[str, ...]:
    """Explain why an entry has fewer seeds than it should."""
    if result is None:
        return ("not run",)
    failures = Counter(f"failed ({cell.failure})" if cell.failure else "not finished" for cell in result.unfinished)
    notes = [f"{counted(number, 'seed')} {failure}" for failure, number in failures.items()]
    missing = seeds - set(result.frame.index) - {cell.config["seed"] for cell in result.unfinished}
    if missing:
        notes.append(f"no record of {_seeds(missing)}")
    number = len(result.frame)
    if number and number != usual:
        notes.insert(0, f"n = {number}")
    return ("; ".join(notes),) if notes else ()


def _gap_notes(what: str, values: Mapping[int, float], reference: Mapping[int, float]) -> tuple[str, ...]:
    """Explain why a difference to a baseline has fewer seeds than the accuracy beside it."""
    gaps = difference(values, reference)
    if len(gaps) == len(values) or not reference:
        return ()
    return (f"{what}: n = {len(gaps)}, {_seeds(gaps)} only" if gaps else f"no {what}: no seed in common",)


def _seeds(seeds: Iterable[int]) -> str:
    numbers = sorted(seeds)
    more = f" and {len(numbers) - _MAX_SEEDS} more" if len(numbers) > _MAX_SEEDS else ""
    return f"{inflected('seed', len(numbers))} {', '.join(map(str, numbers[:_MAX_SEEDS]))}{more}"


def _pair_title(pair: ComparedPair) -> str:
    if not pair.teacher:
        return pair.name
    return f"{pair.teacher_network} ({teacher_accuracy(pair)}, {pair.hashes}) > {pair.student_label}"


def views_entry(row: Row) -> Entry:
    """Make an entry of the views of each image in a step, which are not known before a cell is finished."""
    return Entry(str(row.views) if row.views else MISSING)


def _teacher_entry(pair: ComparedPair) -> Entry:
    text = fixed(pair.teacher_accuracy)
    notes = (f"records of the teacher disagree: {teacher_accuracy(pair)}",) if pair.other_accuracies else ()
    return Entry(text, {"top-1 %": text}, notes=notes) if text else Entry(MISSING)


def _mean(values: pd.Series[float], digits: int) -> Entry:
    return Entry(fixed(values.mean(), digits) or MISSING)


def _forwards_per_image(frame: pd.DataFrame) -> Entry:
    """Make an entry of the teacher's forward passes per image and epoch."""
    if frame.empty or not frame["teacher"].iloc[0]:
        return Entry(MISSING)
    passes = (frame["teacher_forwards"] / frame["student_views"] * frame["views"]).mean()
    return Entry(fixed(passes, 0 if float(passes).is_integer() else 1))


def _paper_notes(
    comparison: Comparison, baseline: Row | None, marks: Marks, reported: Reported, usual: int
) -> list[str]:
    return [
        f"{measure_note(comparison, reported)}; mean ± standard deviation (ddof 1), n = {counted(usual, 'seed')} "
        "unless noted; a teacher is one network",
        f"↑ ↓: difference to {baseline.label} in percentage points, paired by seed" if baseline else "",
        _RULES[marks],
        _APART if marks != "none" and any(row.tuning for row in comparison.rows) else "",
        *teacher_notes(comparison),
        *compute_notes(comparison, comparison.pairs),
        *heavy_logit_notes(comparison, comparison.pairs),
        *search_notes(comparison, comparison.pairs),
        *provenance(comparison),
    ]
