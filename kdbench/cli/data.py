"""``kdbench data``: work with data sets."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import DataOption, DownloadOption, echo
from kdbench.errors import UserError

app = typer.Typer(help="Work with data sets.", no_args_is_help=True)


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
    from kdbench.data.datasets import ArrayDataset, save_npz, subset
    from kdbench.data.npz import NPZ
    from kdbench.data.place import DataPlace
    from kdbench.utils.files import explain_os_errors

    counts = _count("--train-per-class", train_per_class), _count("--test-per-class", test_per_class)
    with explain_os_errors(out, "give another path"):
        exists = out.exists() or out.is_symlink()
    if exists:
        raise UserError(f"{out} exists, and nothing is overwritten: give another path, or delete it first")
    place = DataPlace.parse(data)
    if place.is_npz:
        raise UserError(f"--data {data} is not used: name the file in place of {dataset}, or give a folder with --data")
    whole = place.load(dataset, download=download)
    if not isinstance(whole, ArrayDataset):
        raise UserError(f"{dataset} is not in memory: copy the files of a part into a folder, for --data folder:DIR")
    part = subset(whole, *counts)
    save_npz(part, out)
    echo(f"{out}: {len(part.train_labels)} training and {len(part.test_labels)} test images")
    echo(f"fingerprint {part.fingerprint}\nuse it with --data {shlex.quote(f'{NPZ}{out}')}")
