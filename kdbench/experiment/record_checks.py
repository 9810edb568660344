"""What a record must hold to be believed: its own hash, the numbers of its configuration, and values that can be."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.experiment.pairs import LOGITS
from kdbench.utils.values import number, shown, whole_number

_HASH = "record_hash"
"""Field with the hash of all others; records of kdbench 0.1.0 have none."""
_NUMBERS: dict[str, tuple[float, ...]] = {
    "top1": (0, 100),
    "top5": (0, 100),
    "nll": (0,),
    "ece": (0, 100),
    "best_on_test.top1": (0, 100),
    "teacher.accuracy": (0, 100),
    "balanced_accuracy": (0, 100),
    "validation.top1": (0, 100),
    "validation.nll": (0,),
    "validation.best.top1": (0, 100),
    "validation.best.test_top1": (0, 100),
    "macro_f1": (0, 100),
    "agreement": (0, 100),
    "teacher_kl": (-1e-6,),  # rounding may take it below zero
    "cost.train_seconds": (1e-9,),
    "cost.evaluate_seconds": (0,),
    "cost.images_per_second": (0,),
    "cost.peak_memory_mb": (0,),
}
"""The least, and where there is one the most, that each may be."""
_WHOLE_NUMBERS = {
    "config.seed": 0,
    "config.method.version": 0,
    "config.student_version": 0,
    "epochs": 1,
    "best_on_test.epoch": 1,
    "cost.views_per_image": 1,
    "cost.student_views": 0,
    "cost.teacher_forwards": 0,
    "cost.extra_parameters": 0,
    "cost.pretraining_epochs": 0,
    "cost.cells_together": 1,
    "test_set.images": 1,
    "validation.images": 1,
    "validation.best.epoch": 1,
    "test_set.largest_class": 1,
}
"""The least that each may be."""
_OPTIONAL = {"top5", *(f"cost.{name}" for name in ("evaluate_seconds", "images_per_second", "peak_memory_mb"))}
_OPTIONAL |= {"cost.pretraining_epochs", "cost.cells_together", "test_set.images", "test_set.largest_class"}
_OPTIONAL |= {"balanced_accuracy", "macro_f1", *(f"validation.{name}" for name in ("images", "top1", "nll"))}
_OPTIONAL |= {f"validation.best.{name}" for name in ("epoch", "top1", "test_top1")}
_OPTIONAL |= {"config.student_version"}
"""Numbers that nothing reads, or that were added after records had been kept."""
_OF_TEACHER = {"teacher.accuracy", "agreement", "teacher_kl"}
"""Numbers of cells with a teacher; where it has a file of logits, those of the test images may not be known."""
_TEXTS = (
    *("cell", "weights", "data_fingerprint", "epoch_rule", "settings_source", "config.student"),
    *("config.protocol.name", "config.method.name", "environment.device", "environment.versions.torch"),
)
_OPTIONAL_TEXTS = (
    *("data_name", "family", "environment.commit", "predictions"),
    *("base_source", "student_source", "teacher.source"),
)
_TABLES = ("overrides", "settings_chosen", "loss")
_ROUNDING = 1e-6
"""Difference of two percentages that are equal but for rounding."""
_COPIES = {
    "protocol": "protocol.name",
    "protocol_version": "protocol.version",
    "dataset": "protocol.dataset",
    "epochs": "protocol.epochs",
    "precision": "protocol.precision",
    "student": "student",
    "method": "method.name",
    "seed": "seed",
    "teacher.network": "teacher.network",
    "teacher.id": "teacher.id",
}
"""Fields that repeat one of ``config``, the part of a record that the cell's id is the hash of."""


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the hash of its fields."""
    return {**record, _HASH: _hash(record)}


def is_sealed(record: Mapping[str, Any]) -> bool:
    """Return whether a record holds its hash."""
    return _HASH in record


def check_record(record: Mapping[str, Any]) -> None:
    """Check all that can be told from a record itself.

    Raises
    ------
    ValueError
        It is no record, or damaged; the message is a predicate, such as ``is damaged: ...``.
    """
    try:
        _check(record)
    except KeyError as error:
        raise ValueError(f"is not a kdbench record: {error} is missing") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"is not a kdbench record: {error}") from None
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from None


def check_last_epoch(record: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Raise ValueError if a record differs from the row of its last epoch in its cell's metrics."""
    if row.get("epoch") != record["epochs"]:
        return
    for name, value in row.items():
        field = name.replace("/", ".", 1)
        if name not in {"epoch", "lr"} and (copy := _value(record, field, optional=True)) not in (None, value):
            raise ValueError(
                f"is damaged: its {field} is {shown(copy)}, and metrics.jsonl beside it has {shown(value)}"
            )


def _check(record: Mapping[str, Any]) -> None:
    config = record["config"]
    if identity_hash(identity_text(config)) != record["cell"]:
        raise ValueError("its configuration does not match its cell id")
    if _HASH in record and record[_HASH] != _hash(record):
        raise ValueError("its fields do not match its hash")
    texts = {field: _value(record, field) for field in _TEXTS}
    texts |= {field: _value(record, field, optional=True) or "" for field in _OPTIONAL_TEXTS}
    texts |= {"teacher.weights": record["teacher"]["weights"]} if record["teacher"] else {}
    texts |= {"config.method.base": config["method"]["base"]} if "base_source" in record else {}
    for field, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{field} is {shown(text)}, not a text")
    for field in _TABLES:
        if not isinstance(table := record.get(field, {}), dict):
            raise TypeError(f"{field} is {shown(table)}, not an object")
    _check_numbers(record)
    _check_copies(record)
    if record["best_on_test"]["top1"] < record["top1"]:
        raise ValueError("its best top1 is below that of the last epoch")
    if record["best_on_test"]["epoch"] > record["epochs"]:
        raise ValueError("its best epoch comes after the last")
    if "validation" in record:
        _check_validation(record)
    test_set = record.get("test_set") or {"images": 0, "largest_class": 0}
    if test_set["largest_class"] > test_set["images"]:
        raise ValueError("the largest class of its test set has more images than the whole")
    if "per_class" in record:
        _check_per_class(record)


def _check_per_class(record: Mapping[str, Any]) -> None:
    counts = record["per_class"]
    correct, images = counts["correct"], counts["images"]
    if set(map(type, [*correct, *images])) != {int} or min(*correct, *images) < 0:
        raise TypeError("per_class holds something else than counts")
    if len(correct) != len(images) or any(map(operator.gt, correct, images)):
        raise ValueError("a class has more correct images than images")
    if abs(100 * sum(correct) - record["top1"] * sum(images)) > _ROUNDING * max(1, sum(images)):
        raise ValueError("its correct images per class are not its top1")


def _check_validation(record: Mapping[str, Any]) -> None:
    last, best = record["validation"], record["validation"]["best"]
    if best["top1"] < last["top1"]:
        raise ValueError("its best top1 on held-out images is below that of the last epoch")
    if best["epoch"] > record["epochs"]:
        raise ValueError("its best epoch on held-out images comes after the last")
    if best["test_top1"] > record["best_on_test"]["top1"]:
        raise ValueError("its top1 of the best epoch on held-out images is above the best one")


def _check_numbers(record: Mapping[str, Any]) -> None:
    of_file = LOGITS in record["teacher"]["network"] if record["teacher"] else True
    absent = _OPTIONAL | _OF_TEACHER if of_file else _OPTIONAL
    for field, bounds in _NUMBERS.items():
        _check_number(field, _value(record, field, optional=field in absent), bounds, number, field in absent)
    for field, low in _WHOLE_NUMBERS.items():
        _check_number(field, _value(record, field, optional=field in absent), (low,), whole_number, field in absent)
    for name, loss in record.get("loss", {}).items():
        _check_number(f"loss.{name}", loss, (), number)
    for step, terms in enumerate(record.get("first_losses", ()), 1):
        for name, loss in terms.items():
            _check_number(f"first_losses, step {step}, {name}", loss, (), number)


def _check_number(
    field: str, value: Any, bounds: Sequence[float], take: Callable[..., float], optional: bool = False
) -> None:
    if value is None and optional:
        return
    try:
        take(value, *bounds)
    except ValueError as error:
        raise ValueError(f"{field} {error}") from None


def _check_copies(record: Mapping[str, Any]) -> None:
    config = record["config"]
    settings = {key: value for key, value in config["method"].items() if key not in {"name", "version"}}
    same = {
        field: _value(record, field, optional=True) == _value(config, original, optional=True)
        for field, original in _COPIES.items()
        if field.partition(".")[0] in record
    }
    same["settings"] = record.get("settings", settings) == settings
    same["settings_chosen"] = all(settings.get(key) == value for key, value in record["settings_chosen"].items())
    rules = config["protocol"]
    same["overrides"] = all(rules.get(key, value) == value for key, value in record["overrides"].items())
    for field, equal in same.items():
        if not equal:
            raise ValueError(f"its {field.partition('.')[0]} does not match its configuration")


def _value(record: Mapping[str, Any], field: str, *, optional: bool = False) -> Any:
    """Return the value of a dotted field; None for a missing one that is optional."""
    value: Any = record
    for name in _names(field):
        if optional and (value is None or name not in value):
            return None
        value = value[name]
    return value


@functools.cache
def _names(field: str) -> tuple[str, ...]:
    return tuple(field.split("."))


def _hash(record: Mapping[str, Any]) -> str:
    return identity_hash(identity_text({name: value for name, value in record.items() if name != _HASH}))
