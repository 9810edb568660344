"""``kdbench data``: work with data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import Data, Download, console

app = typer.Typer(help="Work with data sets.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Work with data sets."""


@app.command("subset")
def data_subset(
    dataset: Annotated[str, typer.Argument(help="'kdbench list datasets' names all.")],
    out: Annotated[Path, typer.Argument(help="The npz file to write.")],
    train_per_class: Annotated[int, typer.Option(help="Training images of each class, the first in file order.")],
    test_per_class: Annotated[int, typer.Option(help="Test images of each class, the first in file order.")],
    data: Data = "data",
    download: Download = False,
) -> None:
    """Write the first so many images of each class into one npz file."""
    from kdbench.data.datasets import load_dataset, save_npz, subset  # noqa: PLC0415

    part = subset(load_dataset(dataset, Path(data), download=download), train_per_class, test_per_class)
    save_npz(part, out)
    console.print(f"{out}: {len(part.train_labels)} training and {len(part.test_labels)} test images")
    console.print(f"fingerprint {part.fingerprint}\nuse it with --data npz:{out}")
