"""What a check of a cell or a teacher came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

Verdict = Literal["same", "differs", "not checked"]
Check = Literal[
    "published files",
    "record",
    "configuration",
    "metrics",
    "predictions",
    "code",
    "teacher",
    "weights",
    "test set",
    "first epochs",
]
CHECKS: Final[Mapping[Check, str]] = {
    "published files": "the files that were published have the hashes that published.json lists",
    "record": "its own hash; the cell's id is the hash of its configuration; names and copies of values agree",
    "configuration": "config.toml beside the record is that of the same cell",
    "metrics": "metrics.jsonl has each epoch; the last and the best are those of the record",
    "predictions": "predictions.npz has the hash in the record, and gives its accuracy",
    "code": "methods and networks of one's own have the hash in the record",
    "teacher": "the teacher's weights and accuracy in the record are those of the teacher",
    "weights": "the saved weights have the hash in the record or on the teacher's card",
    "test set": "the saved weights, measured again on the test images, give the same numbers",
    "first epochs": "trained again from nothing, it has the same losses and accuracies",
}
"""Each check, in the order of the report, and what it finds the same."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of one cell, teacher or folder came to."""

    subject: str
    """Folder of the cell or teacher."""
    check: Check
    verdict: Verdict
    text: str = ""
    """What differs, why it was not checked, or how closely it agrees."""
