"""``kdbench export``: write trained networks for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kdbench.cli.evaluate import FolderArgument
from kdbench.cli.options import echo


def export(
    folder: FolderArgument,
    target: Annotated[
        Literal["timm", "torchvision", "onnx", "hf"], typer.Option("--to", help="What it is written for.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, or folder for hf; it must not exist.", metavar="PATH")],
) -> None:
    """Write a trained student or teacher for another library, once it gives equal logits there.

    timm, torchvision: the weights under the library's own names, .safetensors or .pth, of its networks.

    hf: a folder with weights, config.json and a model card for the Hugging Face hub, which timm reads with hf-hub: or
    local-dir:, of timm's networks.

    onnx: any network, for batches of any size of images in [0, 1]; what a method added, such as simkd's projector and
    its teacher's classifier, is in it. It needs pip install 'kdbench[onnx]'.
    """
    from kdbench.engine.described import described
    from kdbench.engine.export import export as write

    source = described(folder)
    words = write(source, target, out)
    echo(f"{out}: {source.name}, with equal logits; load it with\n{words}")
