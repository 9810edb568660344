"""The two layouts of a comparison: all metrics of one pair, and methods x pairs as papers print them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd

from kdbench.analysis.comparison import ComparedPair, Comparison, Epoch, Result, Row
from kdbench.analysis.stats.paired import t_interval
from kdbench.analysis.tables.entries import BEST_ON_TEST, LEVEL, accuracy, difference, fixed, gain, with_difference
from kdbench.analysis.tables.table import MISSING, Entry, Mark, Table, words

Marks = Literal["clear", "all", "none"]
"""Best and second of a column: where the paired interval excludes zero, always, or never."""
_RULES: dict[Marks, str] = {
    "clear": "best bold and second underlined, among complete rows, where the paired difference to the next best has a "
    f"{LEVEL} % interval that excludes zero",
    "all": "best bold and second underlined, among complete rows, whether or not the difference is clear",
    "none": "",
}


def detail(comparison: Comparison, pair: ComparedPair, epoch: Epoch = "last") -> Table:
    """All metrics of one pair, a row a method, the best last."""
    base = comparison.alone
    alone = comparison.result(base, pair) if base else None
    reference = alone.values(epoch) if alone else {}
    found = [(row, result) for row in comparison.rows if (result := comparison.result(row, pair))]
    found.sort(key=lambda item: (item[0] != base, pd.Series(item[1].values(epoch), dtype=float).mean()))
    rows = []
    for row, result in found:
        own = result.frame
        gains = difference(result.values(epoch), reference) if row != base else {}
        rows.append(
            (
                Entry(row.label),
                _noted(accuracy(result.values(epoch), epoch), result, comparison.seeds(pair)),
                Entry(str(len(own))),
                gain(gains),
                *(_mean(own[name], digits) for name, digits in _METRICS.items()),
                Entry(str(row.views)),
                _per_image(own),
                _mean(own["train_seconds"] / own["epochs"], 2),
            )
        )
    heads = ("method", "top-1 %", "n", "gain", "NLL", "ECE %", "agree %", "KL", "views", "teacher", "s/epoch")
    return Table(
        f"{comparison.title}: {_pair_title(pair)}",
        (heads,),
        tuple(rows),
        (
            f"{top1_words(comparison, epoch)}; mean ± standard deviation (ddof 1) over n seeds",
            *([f"gain: over {base.label}, paired by seed, with its {LEVEL} % t interval"] if base else []),
            "agree: predictions equal to the teacher's; KL: from the teacher, in nats",
            "views: of each image in a step; teacher: its forward passes for each image and epoch, 0 with a cache",
            *_compute_notes(comparison),
        ),
    )


_METRICS = {"nll": 3, "ece": 2, "agreement": 2, "teacher_kl": 3}


def paper(comparison: Comparison, baseline: Row | None = None, marks: Marks = "clear", epoch: Epoch = "last") -> Table:
    """Teachers and students on top, methods down in the order of their families."""
    baseline = baseline or comparison.alone
    rows = [row for row in comparison.rows if row != comparison.alone]
    complete = {row for row in rows if comparison.complete(row)}
    numbers = [len(result.frame) for row in rows or comparison.rows for result in comparison.results_of(row)]
    counts = Counter(filter(None, numbers))
    usual = counts.most_common(1)[0][0] if counts else 0
    columns = []
    for pair in comparison.pairs:
        results = {row: comparison.result(row, pair) for row in rows}
        values = {row: result.values(epoch) if result else {} for row, result in results.items()}
        reference = comparison.result(baseline, pair) if baseline else None
        marked = ranked({row: values[row] for row in rows if row in complete}, marks)
        columns.append(
            [
                _cell(
                    values[row],
                    reference.values(epoch) if reference and row != baseline else {},
                    marked.get(row, ""),
                    _gaps(results[row], comparison.seeds(pair), usual),
                    epoch,
                )
                for row in rows
            ]
        )
    lines = [_networks("Teacher", [_teacher_entry(pair) for pair in comparison.pairs])]
    if comparison.alone:
        own = [comparison.result(comparison.alone, pair) for pair in comparison.pairs]
        entries = [accuracy(result.values(epoch) if result else {}, epoch) for result in own]
        lines.append(_networks("Student", entries, str(comparison.alone.views)))
    families = [row.family for row in rows]
    for number, row in enumerate(rows):
        first = number == 0 or families[number - 1] != row.family
        labels = words(row.family if first else "", row.label)
        lines.append((*labels, *(column[number] for column in columns), *words(str(row.views))))
    heads = (
        ("", "teacher", *(pair.teacher or MISSING for pair in comparison.pairs), ""),
        ("", "student", *(pair.student for pair in comparison.pairs), "views"),
    )
    return Table(
        comparison.title,
        heads,
        tuple(lines),
        tuple(filter(None, _paper_notes(comparison, baseline, marks, epoch, usual))),
        num_labels=2,
        grouped=True,
    )


def ranked(values: Mapping[Row, Mapping[int, float]], marks: Marks) -> dict[Row, Mark]:
    """The best and the second of a column, where the rule allows it."""
    means = {row: sum(own.values()) / len(own) for row, own in values.items() if own}
    order = sorted(means, key=lambda row: -means[row])
    found: dict[Row, Mark] = {}
    names: tuple[Mark, ...] = ("best", "second")
    for place, mark in enumerate(names):
        if marks == "none" or len(order) <= place:
            break
        if marks == "clear" and not _clear([values[row] for row in order[place : place + 2]]):
            break
        found[order[place]] = mark
    return found


def _clear(values: Sequence[Mapping[int, float]]) -> bool:
    """Whether the first of two is better beyond doubt."""
    gaps = list(difference(*values).values()) if len(values) == 2 else []
    found = t_interval(gaps, LEVEL / 100) if gaps else None
    return found is not None and found.sd > 0 and found.low > 0


def teachers(comparison: Comparison) -> list[str]:
    """A line that says which teachers stand behind the pairs."""
    known = dict.fromkeys(
        f"{pair.teacher} {fixed(pair.teacher_accuracy) or '?'} % ({pair.short})"
        for pair in comparison.pairs
        if pair.teacher
    )
    return [f"teachers: {', '.join(known)}"] if known else []


def _cell(
    values: Mapping[int, float], reference: Mapping[int, float], mark: Mark, notes: tuple[str, ...], epoch: Epoch
) -> Entry:
    entry = replace(accuracy(values, epoch), mark=mark, notes=notes)
    gaps = difference(values, reference)
    return with_difference(entry, sum(gaps.values()) / len(gaps)) if gaps else entry


def _gaps(result: Result | None, seeds: set[int], usual: int) -> tuple[str, ...]:
    """Why a place has fewer seeds than it should."""
    if result is None:
        return ("not run",)
    told = []
    reasons = Counter(begun.failure or "not finished" for begun in result.begun)
    told += [f"{number} {'seed' if number == 1 else 'seeds'} {_failed(reason)}" for reason, number in reasons.items()]
    absent = seeds - set(result.frame.index) - {begun.config["seed"] for begun in result.begun}
    if absent:
        told.append(f"no record of {'seed' if len(absent) == 1 else 'seeds'} {', '.join(map(str, sorted(absent)))}")
    number = len(result.frame)
    if number and number != usual:
        told.insert(0, f"n = {number}")
    return ("; ".join(told),) if told else ()


def _failed(reason: str) -> str:
    return reason if reason == "not finished" else f"failed ({reason})"


def _noted(entry: Entry, result: Result, seeds: set[int]) -> Entry:
    return replace(entry, notes=_gaps(result, seeds, len(result.frame)))


def top1_words(comparison: Comparison, epoch: Epoch) -> str:
    """What the accuracies are, in words."""
    data, epochs = comparison.rules["dataset"], comparison.rules["epochs"]
    if epoch == "best":
        return f"top-1 on the test set of {data} in % in the best of {epochs} epochs; {BEST_ON_TEST}"
    return f"top-1 on the test set of {data} in % after the last of {epochs} epochs"


def _pair_title(pair: ComparedPair) -> str:
    if not pair.teacher:
        return pair.name
    return f"{pair.teacher} ({fixed(pair.teacher_accuracy) or '?'} %, {pair.short}) > {pair.student}"


def _networks(label: str, entries: Sequence[Entry], views: str = "") -> tuple[Entry, ...]:
    """A row of accuracies of networks that nobody taught."""
    return (*words("", label), *entries, *words(views))


def _teacher_entry(pair: ComparedPair) -> Entry:
    text = fixed(pair.teacher_accuracy)
    return Entry(text, {"top-1 %": text}) if text else Entry(MISSING)


def _mean(values: pd.Series[float], digits: int) -> Entry:
    return Entry(fixed(values.mean(), digits) or MISSING)


def _per_image(own: pd.DataFrame) -> Entry:
    """Forward passes of the teacher for each image and epoch."""
    if own.empty or not own["teacher"].iloc[0]:
        return Entry(MISSING)
    passes = (own["teacher_forwards"] / own["student_views"] * own["views"]).mean()
    return Entry(fixed(passes, 0 if float(passes).is_integer() else 1))


def _paper_notes(comparison: Comparison, baseline: Row | None, marks: Marks, epoch: Epoch, usual: int) -> list[str]:
    shown = baseline and f"↑ ↓: difference to {baseline.label}, paired by seed"
    return [
        f"{top1_words(comparison, epoch)}; mean ± standard deviation (ddof 1), n = {usual} unless noted",
        shown or "",
        _RULES[marks],
        *teachers(comparison),
        *_compute_notes(comparison),
        *provenance(comparison),
    ]


def _compute_notes(comparison: Comparison) -> list[str]:
    """Who computes more than others."""
    views: dict[int, list[str]] = {}
    before: dict[int, list[str]] = {}
    asked: dict[bool, list[str]] = {}
    for row in comparison.rows:
        forwards = [result.frame["teacher_forwards"] for result in comparison.results_of(row)]
        earlier = [result.frame["pretraining_epochs"] for result in comparison.results_of(row)]
        if row.views:
            views.setdefault(row.views, []).append(row.label)
        longest = max((own.max() for own in earlier if len(own)), default=0)
        if longest:
            before.setdefault(int(longest), []).append(row.label)
        if row != comparison.alone and any(map(len, forwards)):
            asked.setdefault(any((own > 0).any() for own in forwards), []).append(row.label)
    lines = []
    for number in sorted(views)[1:]:
        verb = "trains" if len(views[number]) == 1 else "train"
        others = f"others on {min(views)}"
        lines.append(f"unequal compute: {', '.join(views[number])} {verb} on {number} views of an image, {others}")
    for number, labels in sorted(before.items()):
        verb, epochs = "has" if len(labels) == 1 else "have", f"{number} epoch{'s' if number > 1 else ''}"
        lines.append(f"unequal compute: {', '.join(labels)} {verb} {epochs} of pre-training before those of the others")
    if len(asked) > 1:
        live, cached = ", ".join(asked[True]), ", ".join(asked[False])
        lines.append(f"unequal compute: the teacher was asked live for {live}, and read from a cache for {cached}")
    return lines


def provenance(comparison: Comparison) -> list[str]:
    """Where records come from, and which settings nobody published."""
    frame = comparison.frame
    ours = sorted(row.label for row in comparison.rows if row != comparison.alone and _unpublished(comparison, row))
    made = [
        f"{word} {', '.join(sorted(frame[name].unique()))}"
        for word, name in (("torch", "torch"), ("kdbench commit", "commit"))
    ]
    lines = [
        f"no settings are published for these pairs and the defaults are used: {', '.join(ours)}" if ours else "",
        f"run on {', '.join(sorted(frame['device'].unique()))}; {'; '.join(made)}",
    ]
    return [line for line in lines if line]


def _unpublished(comparison: Comparison, row: Row) -> bool:
    return any(
        source.startswith("defaults") and "no published" in source
        for result in comparison.results_of(row)
        for source in result.frame["source"].unique()
    )
