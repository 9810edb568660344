"""``kdbench data``: work with data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import DataOption, DownloadOption, echo

app = typer.Typer(help="Work with data sets.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Work with data sets."""


@app.command("subset")
def data_subset(
    dataset: Annotated[str, typer.Argument(help="Data set; 'kdbench list datasets' lists them.")],
    out: Annotated[Path, typer.Argument(help="npz file to write.")],
    train_per_class: Annotated[
        int, typer.Option(help="Number of training images of each class, the first in file order.")
    ],
    test_per_class: Annotated[int, typer.Option(help="Number of test images of each class, the first in file order.")],
    data: DataOption = "data",
    download: DownloadOption = False,
) -> None:
    """Write the first images of each class to an npz file."""
    from kdbench.data.datasets import load_dataset, save_npz, subset

    part = subset(load_dataset(dataset, Path(data), download=download), train_per_class, test_per_class)
    save_npz(part, out)
    echo(f"{out}: {len(part.train_labels)} training and {len(part.test_labels)} test images")
    echo(f"fingerprint {part.fingerprint}\nuse it with --data npz:{out}")
