"""``kdbench data``: work with data sets."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.cli.options import DataOption, DownloadOption, echo
from kdbench.cli.output import write_utf8
from kdbench.errors import UserError
from kdbench.utils.text import counted, printable

if TYPE_CHECKING:
    from kdbench.data.files.listing import ImageFiles

app = typer.Typer(help="Work with data sets.", no_args_is_help=True)

_MOST_SHOWN = 20
"""Broken files that are named."""
_LINES = 100_000
"""Images that are written in one go."""

WordArgument = Annotated[
    str,
    typer.Argument(help="folder:DIR, imagenet:DIR, tinyimagenet:DIR, tar:DIR or hfds:NAME.", metavar="WORD"),
]


def _count(option: str, text: str) -> int | None:
    """Read a number of images; None for ``all``."""
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{option} must be a whole number, or all, not {text!r}") from None


@app.callback()
def group() -> None:
    """Work with data sets."""


@app.command("subset")
def data_subset(
    dataset: Annotated[str, typer.Argument(help="Data set; 'kdbench list datasets' lists them.")],
    out: Annotated[Path, typer.Argument(help="npz file to write; it must not exist.")],
    train_per_class: Annotated[
        str,
        typer.Option(help="Number of training images of each class, the first in file order, or all.", metavar="N|all"),
    ],
    test_per_class: Annotated[
        str, typer.Option(help="Number of test images of each class, the first in file order, or all.", metavar="N|all")
    ],
    data: DataOption = None,
    download: DownloadOption = False,
) -> None:
    """Write the first images of each class, or all images, to an npz file."""
    from kdbench.data.datasets import ArrayDataset
    from kdbench.data.npz import NPZ
    from kdbench.data.place import DataPlace
    from kdbench.data.subsets import save_npz, subset
    from kdbench.utils.files import explain_os_errors

    counts = _count("--train-per-class", train_per_class), _count("--test-per-class", test_per_class)
    with explain_os_errors(out, "give another path"):
        exists = out.exists() or out.is_symlink()
    if exists:
        raise UserError(f"{out} exists, and nothing is overwritten: give another path, or delete it first")
    place = DataPlace.parse(data)
    if place.kind:
        raise UserError(f"--data {data} is not used: name the file in place of {dataset}, or give a folder with --data")
    whole = place.load(dataset, download=download)
    if not isinstance(whole, ArrayDataset):
        raise UserError(f"{dataset} is not in memory: copy the files of a part into a folder, for --data folder:DIR")
    part = subset(whole, *counts)
    save_npz(part, out)
    echo(f"{out}: {len(part.train_labels)} training and {len(part.test_labels)} test images")
    echo(f"fingerprint {part.fingerprint}\nuse it with --data {shlex.quote(f'{NPZ}{out}')}")


@app.command("index")
def data_index(word: WordArgument) -> None:
    """List the image files of a data set with their sizes, and keep the listing for all later jobs.

    folder:DIR has train/CLASS/* and val/CLASS/*. imagenet:DIR has the same, or val/* with the development kit's
    ILSVRC2012_validation_ground_truth.txt and meta.mat in DIR. tinyimagenet:DIR is as published. tar:DIR has train.tar
    and val.tar. hfds:NAME is a Hugging Face data set, and needs the package datasets.

    Hidden files, Thumbs.db and desktop.ini are ignored; anything else that is no image is an error. The listing is kept
    in DIR, or else in the user's cache folder. Other commands make it on first use, and again when a folder changes.
    """
    files = _open(word, anew=True)
    _print_summary(word, files)
    kept = f"the listing is kept in {files.kept_in}" if files.kept_in else "the listing could be kept in no folder"
    echo(f"{kept}\nuse the data with --data {shlex.quote(word)}")


@app.command("check")
def data_check(word: WordArgument) -> None:
    """Read and decode all image files of a data set, and name the broken ones; exit code 1 if there are any."""
    from kdbench.data.files.check import faults
    from kdbench.data.files.names import Progress
    from kdbench.utils.resources import owned_cpus

    files = _open(word)
    total, done, broken = len(files.train) + len(files.test), 0, 0
    progress = Progress(echo, f"checking {word}")
    for listing in (files.train, files.test):
        for fault in faults(listing, owned_cpus()):
            if fault is not None and (broken := broken + 1) <= _MOST_SHOWN:
                echo(fault)
            progress(done := done + 1, total)
    _print_summary(word, files)
    if broken:
        more = f"; the first {_MOST_SHOWN} are named" if broken > _MOST_SHOWN else ""
        echo(f"{broken:,} of {counted(total, 'image')} cannot be used{more}: copy them again, or remove them")
        raise typer.Exit(1)
    echo(f"all {total:,} images can be decoded")


@app.command("list")
def data_list(
    word: Annotated[
        str,
        typer.Argument(
            help="digits, cifar10 ... ('kdbench list datasets' lists them), npz:FILE, folder:DIR, imagenet:DIR, "
            "tinyimagenet:DIR, tar:DIR or hfds:NAME.",
            metavar="WORD",
        ),
    ],
    split: Annotated[Literal["train", "test"], typer.Option(help="Training or test images.")] = "train",
    data: DataOption = None,
    download: DownloadOption = False,
) -> None:
    """List the images of a data set in the order that their numbers refer to, one a line.

    Columns, with a tab between them and their names in the first line: index (from 0), label (class number), class (its
    name) and file (the image's, below the data set's folder). Data without class names or files have empty columns.
    Row I of a file of logits, or of a cell's predictions, is about the image with index I.
    """
    from kdbench.data.place import DataPlace, known_dataset

    place = DataPlace.of_dataset(word)
    if place and data is not None:
        raise UserError(f"--data {data} is of no use with {word}, which says where the data are: leave it out")
    name = word if place else known_dataset(word)
    place = place or DataPlace.parse(data)
    place.check(name, download=download)
    files = place.image_files(name, _on_stderr)
    if files:
        listing = files.train if split == "train" else files.test
        labels, class_names, paths = listing.labels.tolist(), files.class_names, listing.names()
    else:
        arrays = place.load(name, download=download)
        labels = getattr(arrays, f"{split}_labels").tolist()
        class_names, paths = arrays.class_names or ("",) * arrays.num_classes, [""] * len(labels)
    classes = [f"{label}\t{printable(name)}" for label, name in enumerate(class_names)]
    write_utf8("index\tlabel\tclass\tfile\n")
    for start in range(0, len(labels), _LINES):
        rows = zip(labels[start : start + _LINES], paths[start : start + _LINES], strict=True)
        lines = (f"{index}\t{classes[label]}\t{path}\n" for index, (label, path) in enumerate(rows, start))
        write_utf8("".join(lines))


def _on_stderr(line: str) -> None:
    """Print a line about the work beside the output, which is for programs."""
    sys.stderr.write(f"{printable(line)}\n")


def _open(word: str, *, anew: bool = False) -> ImageFiles:
    from kdbench.data.files.opening import image_word, open_image_files

    kind_and_path = image_word(word)
    if kind_and_path is None:
        raise UserError(
            f"{word!r} names no data set of image files: type folder:DIR, imagenet:DIR, tinyimagenet:DIR, tar:DIR or "
            "hfds:NAME"
        )
    return open_image_files(*kind_and_path, echo, anew=anew)


def _print_summary(word: str, files: ImageFiles) -> None:
    from kdbench.utils.text import size

    total = int(files.train.sizes.sum() + files.test.sizes.sum())
    echo(
        f"{word}: {len(files.train):,} training and {len(files.test):,} test images of "
        f"{counted(files.num_classes, 'class')}, {size(total)}\nfingerprint {files.fingerprint}"
    )
