"""Write the notes below tables of a comparison: epoch, teachers, unequal compute, and where records come from."""

from __future__ import annotations

from kdbench.analysis.comparison import Comparison, EpochRule, Row
from kdbench.analysis.tables.entries import BEST_ON_TEST, fixed


def top1_note(comparison: Comparison, epoch_rule: EpochRule) -> str:
    """Describe the accuracies of a comparison: data set, unit and epoch."""
    data, epochs = comparison.rules["dataset"], comparison.rules["epochs"]
    if epoch_rule == "best":
        return f"top-1 on the test set of {data} in % in the best of {epochs} epochs; {BEST_ON_TEST}"
    return f"top-1 on the test set of {data} in % after the last of {epochs} epochs"


def teacher_notes(comparison: Comparison) -> list[str]:
    """Return a note with the accuracy and the hash of each teacher."""
    teachers = dict.fromkeys(
        f"{pair.teacher} {fixed(pair.teacher_accuracy) or '?'} % ({pair.short_id})"
        for pair in comparison.pairs
        if pair.teacher
    )
    return [f"teachers: {', '.join(teachers)}"] if teachers else []


def compute_notes(comparison: Comparison) -> list[str]:
    """Return notes on methods that use more compute than others."""
    views: dict[int, list[str]] = {}
    pretraining: dict[int, list[str]] = {}
    live: list[str] = []
    cached: list[str] = []
    for row in comparison.rows:
        frames = [result.frame for result in comparison.results_of(row) if len(result.frame)]
        if row.views:
            views.setdefault(row.views, []).append(row.label)
        epochs = max((int(frame["pretraining_epochs"].max()) for frame in frames), default=0)
        if epochs:
            pretraining.setdefault(epochs, []).append(row.label)
        if row != comparison.student_only and frames:
            queries_teacher = any((frame["teacher_forwards"] > 0).any() for frame in frames)
            (live if queries_teacher else cached).append(row.label)
    notes = []
    for number in sorted(views)[1:]:
        verb = "trains" if len(views[number]) == 1 else "train"
        labels = ", ".join(views[number])
        notes.append(f"unequal compute: {labels} {verb} on {number} views of each image, the others on {min(views)}")
    for number, methods in sorted(pretraining.items()):
        verb, unit = "adds" if len(methods) == 1 else "add", "epochs" if number > 1 else "epoch"
        notes.append(f"unequal compute: {', '.join(methods)} {verb} {number} {unit} of pre-training")
    if live and cached:
        notes.append(
            f"unequal compute: {', '.join(live)} queried the teacher live; "
            f"{', '.join(cached)} read its outputs from a cache"
        )
    return notes


def provenance(comparison: Comparison) -> list[str]:
    """Return notes on where records come from, and on methods without published settings."""
    frame = comparison.frame
    unpublished = sorted(
        row.label for row in comparison.rows if row != comparison.student_only and _is_unpublished(comparison, row)
    )
    versions = [
        f"{word} {', '.join(sorted(frame[column].unique()))}"
        for word, column in (("torch", "torch"), ("kdbench commit", "commit"))
    ]
    notes = [
        f"no published settings for these pairs, defaults used: {', '.join(unpublished)}" if unpublished else "",
        f"run on {', '.join(sorted(frame['device'].unique()))}; {'; '.join(versions)}",
    ]
    return [note for note in notes if note]


def _is_unpublished(comparison: Comparison, row: Row) -> bool:
    return any(
        source.startswith("defaults") and "no published" in source
        for result in comparison.results_of(row)
        for source in result.frame["source"].unique()
    )
