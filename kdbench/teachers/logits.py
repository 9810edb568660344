"""Files of logits as teachers: what a network that is not here says of each training image, without augmentation.

Legend: ``N`` images, ``K`` classes.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from kdbench.data.images import Dataset
from kdbench.errors import UserError
from kdbench.experiment.folder import WEIGHTS
from kdbench.experiment.pairs import LOGITS
from kdbench.experiment.protocol import Protocol
from kdbench.models.evaluate import evaluate
from kdbench.models.weights import read_weights, weights_hash
from kdbench.teachers.cards import CARD, TEST_LOGITS, TeacherCard, card_folder
from kdbench.teachers.load import TeacherMismatch, agrees, check_expected, keep_predictions
from kdbench.utils.files import write_atomic, write_json
from kdbench.utils.names import safe_name
from kdbench.utils.text import one_line

_ENTRY = "logits"
_SPLITS = ("train", "test")
_FORMAT = "an .npz file with float arrays train_logits (N, K) and, if there are any, test_logits, or an .npy file"


def import_logits(
    path: Path,
    name: str,
    *,
    runs: Path,
    protocol: Protocol,
    dataset: Dataset,
    expected: float | None = None,
) -> tuple[TeacherCard, float]:
    """Import a file of logits as a teacher.

    Parameters
    ----------
    path
        ``.npz`` with ``train_logits`` and, optionally, ``test_logits``, or ``.npy`` with the former: one row for each
        image, in the order of the data set.
    name
        What it is called behind ``logits:``; the name of the file if empty.
    expected
        Test top-1 in percent.

    Returns
    -------
    card
        The teacher.
    train_accuracy
        Top-1 on the training images, in percent: rows in another order are at chance.

    Raises
    ------
    UserError
        The file does not hold logits of this data set, or their accuracy is not the expected one.
    """
    name = name or path.stem
    if safe_name(name) != name:
        raise UserError(f"--name {name!r} must be letters, digits, '.', '_' and '-', and not begin with '.'")
    check_expected(expected)
    labels = dict(zip(_SPLITS, (dataset.train_labels, dataset.test_labels), strict=True))
    logits = {
        split: _checked(array, f"{path}: {split}_logits", labels[split], dataset)
        for split, array in _read(path, {split: (len(each), dataset.num_classes) for split, each in labels.items()})
    }
    train, test = logits["train"], logits.get("test")
    accuracy = None if test is None else evaluate(test, dataset.test_labels)["top1"]
    if expected is not None:
        if accuracy is None:
            raise UserError(f"--accuracy checks test_logits, and {path} has none: add them, or leave it out")
        if not agrees(accuracy, expected, dataset):
            raise TeacherMismatch(
                f"teacher mismatch: {path} has {accuracy:.2f} % on the test set of {dataset.name}, expected "
                f"{expected:.2f} %: 'kdbench data list' shows the order of the images. If it is right: --accuracy "
                f"{accuracy:.2f}"
            )
    digest = weights_hash({_ENTRY: train})
    card = TeacherCard(
        network=f"{LOGITS}{name}",
        id=f"file:{digest}",
        dataset=protocol.dataset,
        weights=digest,
        accuracy=accuracy,
        expected=expected,
        origin=f"logits of {path.name}",
    )
    folder = card_folder(runs, protocol.name, card)
    for file, tensor in ((WEIGHTS, train), (TEST_LOGITS, test)):
        if tensor is None:
            (folder / file).unlink(missing_ok=True)
        else:
            write_atomic(folder / file, safetensors.torch.save({_ENTRY: tensor}))
    if test is not None:
        keep_predictions(folder, test, dataset)
    write_json(folder / CARD, asdict(card))
    return card, evaluate(train, dataset.train_labels)["top1"]


def load_logits(runs: Path, card: TeacherCard, protocol: Protocol, dataset: Dataset) -> tuple[Tensor, Tensor | None]:
    """Return the logits of the training images and, where they are known, of the test images, ``(N, K)``.

    Raises
    ------
    TeacherMismatch
        They are damaged, are not what the card describes, or do not fit the data.
    """
    folder = card_folder(runs, protocol.name, card)
    try:
        train = read_weights(folder / WEIGHTS)
        test = None if card.accuracy is None else read_weights(folder / TEST_LOGITS)[_ENTRY]
    except (UserError, KeyError) as error:
        raise TeacherMismatch(f"teacher {card.spec}: {one_line(error)}: import it again") from None
    if weights_hash(train) != card.weights:
        raise TeacherMismatch(f"teacher mismatch: {folder / WEIGHTS} is not what its card describes: import it again")
    logits = train[_ENTRY]
    for tensor, labels in ((logits, dataset.train_labels), (test, dataset.test_labels)):
        if tensor is not None and tensor.shape != (len(labels), dataset.num_classes):
            raise TeacherMismatch(
                f"teacher mismatch: {card.spec} has logits of {len(tensor)} images, and these data have {len(labels)} "
                "of them: give the data it was imported for (--data)"
            )
    if test is not None and card.accuracy is not None:
        measured = evaluate(test, dataset.test_labels)["top1"]
        if not agrees(measured, card.accuracy, dataset):
            raise TeacherMismatch(
                f"teacher mismatch: {card.spec} has {measured:.2f} % on these test images, its card says "
                f"{card.percent}: give the data it was imported for (--data), or import it again"
            )
    return logits, test


def _read(path: Path, shapes: dict[str, tuple[int, int]]) -> list[tuple[str, npt.NDArray[Any]]]:
    """Return the arrays of a file by their split.

    Raises
    ------
    UserError
        It cannot be read, or holds no such arrays.
    """
    try:
        if not path.is_file():
            raise UserError(f"there is no file {path}: give {_FORMAT}")
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                return [("train", np.lib.format.open_memmap(path, mode="r"))]
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            names = {f"{split}_logits": split for split in _SPLITS if f"{split}_logits" in content.files}
            if "train_logits" not in names:
                held = ", ".join(map(repr, content.files)) or "nothing"
                raise UserError(f"{path} has no train_logits (it has {held}): give {_FORMAT}")
            for name, split in names.items():
                rows, columns = shapes[split]
                if content.zip.getinfo(f"{name}.npy").file_size > 16 * rows * columns + 2**16:
                    raise UserError(f"{path}: {name} is larger than {rows:,} x {columns:,} numbers: give that many")
            return [(split, content[name]) for name, split in names.items()]
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} does not fit into memory: give its training logits alone, as an .npy file") from None
    except (ValueError, OSError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy refuses to map or unpickle objects, which could run any code.
        is_pickle = any(word in str(error) for word in ("pickle", "Python objects", "Object arrays"))
        reason = "it is no array, or holds Python objects" if is_pickle else one_line(error)
        raise UserError(f"{path} cannot be read ({reason}): give {_FORMAT}") from None


def _checked(array: npt.NDArray[Any], where: str, labels: Tensor, dataset: Dataset) -> Tensor:
    """Return logits as a tensor, in half precision where they are in it, else in float32.

    Raises
    ------
    UserError
        They are of another shape or type, or not finite.
    """
    shape = len(labels), dataset.num_classes
    if array.shape != shape:
        raise UserError(
            f"{where} has the shape {tuple(array.shape)}, and {dataset.name} needs {shape}: one row for each image, in "
            "the order of 'kdbench data list', and one column for each class"
        )
    if array.dtype.kind != "f":
        raise UserError(f"{where} holds {array.dtype}, not floating-point numbers: give logits, before any softmax")
    kept = np.float16 if array.dtype == np.float16 else np.float32
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and said below
        logits = torch.from_numpy(array.astype(kept, order="C"))
    if broken := int((~logits.isfinite()).any(dim=1).sum()):
        raise UserError(f"{where} is not finite for {broken:,} of {shape[0]:,} images: compute those again")
    return logits
