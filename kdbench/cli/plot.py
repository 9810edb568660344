"""``kdbench plot``: the pictures that papers print, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.cli.options import DeviceOption, DownloadOption, echo, progress_bar
from kdbench.cli.selection import (
    FamiliesOption,
    MethodsOption,
    NamesOption,
    PairsOption,
    ProtocolFilter,
    RulesOption,
    RunsArgument,
    Selection,
    WithoutFamiliesOption,
    read_selection,
)
from kdbench.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

Name = Literal[
    "differences",
    "cost",
    "ranks",
    "top1",
    "loss",
    "losses",
    "classes",
    "reliability",
    "correlation",
    "tsne",
    "best-of-n",
]


def plot(
    name: Annotated[Name, typer.Argument(help="Picture to draw.")],
    runs: RunsArgument = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the files; created if missing.", metavar="DIR")] = Path("plots"),
    form: Annotated[
        Literal["svg", "pdf"] | None, typer.Option("--format", help="Format of the files. [default: both]")
    ] = None,
    names: NamesOption = "typed",
    methods: MethodsOption = None,
    families: FamiliesOption = None,
    without_families: WithoutFamiliesOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Of 'tsne': folder of data sets, or one data set, as npz:FILE or folder:DIR; may be repeated: each "
            "network takes the one that it was trained on. [default: data]",
            metavar="DIR|KIND:DIR",
        ),
    ] = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
) -> None:
    """Draw a picture of finished cells as SVG and PDF files for a paper.

    One file for all pairs: 'cost', accuracy against GPU-hours, coloured by family; 'differences' to the student-only
    baseline; 'ranks', the critical-difference diagram.

    One file for each pair: 'top1' and 'loss' by epoch; 'losses', each term of the loss by epoch; 'classes', gains over
    the baseline by class; 'reliability', accuracy by confidence; 'correlation', how the logits of classes correlate in
    student and teacher; 'tsne' of penultimate features; 'best-of-n', what searches with fewer trials would have found.

    They are those of 'kdbench report', under the same names. 'tsne' runs the networks of each method's first seed, and
    of the teacher, on test images, and keeps the points as tsne.npz in their folders, where the report finds them; of
    the others, none needs the data.
    """
    from rich.console import Console

    from kdbench.analysis.plots.written import write_plots

    if name != "tsne" and (data or download or device is not None):
        raise UserError(f"--data, --download and --device are for 'kdbench plot tsne': {name} needs no data")
    selection = read_selection(
        runs,
        protocol=protocol,
        rules=rules,
        methods=methods,
        families=families,
        without_families=without_families,
        pairs=pairs,
        names=names,
    )
    problems: list[str] = []
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("reading", total=1.0)
        if name == "tsne":
            problems = _embed(selection, data or [], device, progress, download=download)
        paths, reasons = write_plots(
            name,
            selection.comparisons,
            selection.records.frame,
            out,
            (form,) if form else ("svg", "pdf"),
            on_progress=lambda work, done: progress.update(task, completed=done, description=work),
        )
    if not paths:
        raise UserError(reasons[0])
    for path in paths:
        echo(str(path))
    selection.remarks.extend(problems or reasons)
    selection.finish()


def _embed(
    selection: Selection, data: list[str], device: str | None, progress: Progress, *, download: bool
) -> list[str]:
    """Embed the features of networks that have no embedding; returns why some could not be embedded.

    Raises
    ------
    UserError
        None of them could be embedded.
    """
    from kdbench.analysis.plots.embeddings import Embedding, embed, read_embedding, shown_images, write_embedding
    from kdbench.analysis.plots.pictures import Material

    materials = [Material.of(comparison, selection.records.frame) for comparison in selection.comparisons]
    networks = {
        network: f"{label} of {pair.name}"
        for material in materials
        for pair in material.comparison.pairs
        for label, network in material.networks(pair).items()
    }
    missing = {network: label for network, label in networks.items() if read_embedding(*network) is None}
    if not missing:
        return []

    from kdbench.engine.features import FeatureReader
    from kdbench.utils.device import pick_device, prepare_process

    place = prepare_process(pick_device(device))
    reader = FeatureReader(data, download=download, device=place, choose=shown_images)
    task = progress.add_task("", total=len(missing))
    problems: list[UserError] = []
    for (folder, weights), label in missing.items():
        progress.update(task, description=f"embedding the features of {label}")
        try:
            features = reader.read(folder)
            write_embedding(
                folder,
                Embedding(
                    points=embed(features.values),
                    labels=features.labels,
                    num_classes=features.num_classes,
                    weights=weights,
                ),
            )
        except UserError as error:
            problems.append(error)
        progress.advance(task)
    progress.remove_task(task)
    if problems and len(problems) == len(networks):
        raise problems[0]
    return [f"left out: {problem}" for problem in problems]
