"""Read the files that name the classes of test images which lie in one folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kdbench.data.decoding.processes import in_a_process
from kdbench.errors import UserError
from kdbench.utils.reading import Missing, Unreadable, read_text
from kdbench.utils.text import one_line

ANNOTATIONS: Final = "val/val_annotations.txt"
"""Tiny ImageNet's, in its folder."""
GROUND_TRUTH: Final = "ILSVRC2012_validation_ground_truth.txt"
META: Final = "meta.mat"
WORDNET_ID: Final = re.compile(r"n\d{8}")
DEVKIT: Final = "ILSVRC2012_devkit_t12/data"
"""Where ImageNet's development kit keeps the two, as it unpacks."""


def annotated(root: Path) -> dict[str, str]:
    """Return the class of each test image of Tiny ImageNet by its file name.

    Raises
    ------
    UserError
        The file is missing or holds something else, or names an image twice.
    """
    path = root / ANNOTATIONS
    classes: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if not name or not label:
            raise UserError(f"{path}, line {number}: {line!r:.80} is no image and class with a tab between them")
        if name in classes:
            raise UserError(f"{path}, line {number}: {name} occurs twice")
        classes[name] = label
    return classes


def find_devkit(root: Path) -> tuple[str, str]:
    """Return the paths of ImageNet's ground truth and meta.mat, relative to the data set's folder.

    Raises
    ------
    UserError
        One of them is missing.
    """
    for folder in (".", DEVKIT):
        paths = (f"{folder}/{GROUND_TRUTH}", f"{folder}/{META}")
        if all((root / path).exists() for path in paths):
            return paths
    raise UserError(
        f"the images in {root / 'val'} lie in one folder, and what names their classes is missing: put {GROUND_TRUTH} "
        f"and {META} of ImageNet's development kit into {root}, or unpack the kit there, or sort the images into "
        "folders val/CLASS"
    )


def ground_truth(root: Path, images: list[str]) -> dict[str, str]:
    """Return the class, a WordNet id, of each of ImageNet's validation images by its file name.

    Line n of the ground truth holds the ILSVRC id of the n-th image in the order of names, and meta.mat says which
    WordNet id that is: ids are numbered otherwise than classes, which are sorted by their WordNet ids.

    Raises
    ------
    UserError
        A file holds something else, or the number of lines is not that of the images.
    """
    truth, meta = (root / path for path in find_devkit(root))
    classes = _wordnet_ids(meta)
    lines = _lines(truth)
    if len(lines) != len(images):
        raise UserError(
            f"{truth} has {len(lines):,} lines for the {len(images):,} images in {root / 'val'}: there must be one for "
            "each image"
        )
    labels: dict[str, str] = {}
    for number, (line, name) in enumerate(zip(lines, sorted(images), strict=True), 1):
        ilsvrc_id = int(line) if line.strip().isdecimal() else -1
        if ilsvrc_id not in classes:
            raise UserError(f"{truth}, line {number}: {line!r:.80} is no id of a class in {meta}")
        labels[name] = classes[ilsvrc_id]
    return labels


def _wordnet_ids(path: Path) -> Mapping[int, str]:
    """Return the WordNet ids of ``meta.mat`` by ILSVRC id, of the classes alone: the leaves of the tree of words.

    SciPy's reader runs in a process of its own, since a damaged file can crash it.
    """
    try:
        leaves = in_a_process(_leaves, path)
    except ChildProcessError as error:
        leaves = str(error)
    if isinstance(leaves, str):
        raise UserError(
            f"{path} cannot be read as the {META} of ImageNet's development kit ({leaves}): unpack it again"
        )
    return leaves


def _leaves(path: Path) -> dict[int, str] | str:
    """Return the WordNet ids by ILSVRC id, or why there are none."""
    from scipy.io import loadmat  # noqa: PLC0415 - only here

    warnings.simplefilter("ignore")
    try:
        rows = loadmat(path, squeeze_me=True)["synsets"]
        leaves = [(int(row[0]), str(row[1])) for row in rows if int(row[4]) == 0]  # id, WordNet id, ..., children
    except Exception as error:  # of any type, where bytes are taken for something else
        return one_line(error)
    if odd := next((name for _, name in leaves if not WORDNET_ID.fullmatch(name)), None):
        return f"{odd!r:.80} is no WordNet id"
    return dict(leaves) if len(set(leaves)) == len(dict(leaves)) == len({name for _, name in leaves}) else "an id twice"


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except Missing:
        raise UserError(f"there is no file {path}, which names the classes of the images beside it") from None
    except Unreadable as error:
        raise UserError(f"{path} {error}") from None
