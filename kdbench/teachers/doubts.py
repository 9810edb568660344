"""The words for what makes a teacher doubtful: said when it is made, when it teaches, and below tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.experiment.pairs import teacher_name
from kdbench.utils.guessing import is_guess
from kdbench.utils.text import counted

UNCHECKED = "imported without an expected accuracy"
FILE = "a file of logits of the images as they are: students are taught the same logits whatever crop they see"
ENSEMBLE = "an ensemble: the logits of its members are averaged"


def at_chance(num_images: int, largest_class: int) -> str:
    """Say what an accuracy at chance is worth on a test set of so many images, so many of them of one class."""
    share = 100 * largest_class / num_images
    return f"no better than guessing the largest class ({share:.2f} % of {num_images} test images)"


def trained_for(epochs: int) -> str:
    """Say how a teacher was trained whose epochs are not those of its protocol's teachers."""
    length = f"was trained for {counted(epochs, 'epoch')}, in a schedule of that length"
    return length if epochs else "has random weights, and batch statistics measured with them"


def below_student(percent: float) -> str:
    """Say that a teacher does not beat its student, whose accuracy without a teacher is given in percent."""
    return f"not better than its student trained without it ({percent:.2f} %)"


def is_unchecked(teacher: Mapping[str, Any]) -> bool:
    """Return whether a teacher, as records hold it, or a member of it was imported and its accuracy never checked.

    Records of earlier versions do not say it.
    """
    parts = [teacher, *teacher.get("members", ())]
    return any(part.get("expected", 0.0) is None for part in parts)


def doubts_of(record: Mapping[str, Any], alone: float | None = None) -> list[str]:
    """Return what is doubtful about the teacher of a record, each as a sentence.

    Parameters
    ----------
    alone
        Accuracy of its student trained without a teacher, in percent, where that is known.
    """
    teacher, test_set = record["teacher"], record.get("test_set")
    if not teacher:
        return []
    accuracy, words = teacher["accuracy"], []
    if accuracy is not None and test_set and is_guess(accuracy, test_set["images"], test_set["largest_class"]):
        words.append(f"is {at_chance(test_set['images'], test_set['largest_class'])}")
    if accuracy is not None and alone is not None and accuracy <= alone:
        words.append(f"is {below_student(alone)}")
    if is_unchecked(teacher):
        words.append(f"was {UNCHECKED}")
    percent = "accuracy unknown" if accuracy is None else f"{accuracy:.2f} %"
    return [f"the teacher {teacher_name(teacher)} ({percent}) {each}" for each in words]
