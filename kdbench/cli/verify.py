"""``kdbench verify``: check the claims of records."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.evaluate import report
from kdbench.cli.options import DeviceOption, DownloadOption, WorkersOption, echo, progress_bar
from kdbench.errors import UserError

_MAX_SEED = 2**31 - 1


def verify(
    runs: Annotated[
        Path, typer.Argument(help="Folder of runs, or one that 'kdbench publish' wrote.", metavar="RUNS")
    ] = Path("runs"),
    retrain: Annotated[
        int, typer.Option(help="How many cells, drawn at random, are trained again from nothing.", metavar="N")
    ] = 0,
    epochs: Annotated[
        int, typer.Option(help="First epochs of each that are trained, those of pre-training among them.")
    ] = 2,
    seed: Annotated[
        int | None, typer.Option(help="Decides which cells are drawn. [default: a new one, which is printed]")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder of runs with weights and teachers that RUNS does not have, as a published folder has none.",
            metavar="DIR",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of data sets, or one data set, as npz:FILE or folder:DIR; may be repeated: each cell takes "
            "the one that it was trained on. [default: data]",
            metavar="DIR|KIND:DIR",
        ),
    ] = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    out: Annotated[Path, typer.Option(help="Report, in Markdown.", metavar="FILE")] = Path("verified.md"),
) -> None:
    """Check the claims of finished cells: their own or anybody's.

    Every record is compared with its hash, its cell's id, the files beside it and its teacher; saved weights are
    compared with their hash and measured again on the test images. With --retrain, cells drawn at random are trained
    again from nothing, for their first epochs, with as many devices, and compiled or cached, as they were.

    Where processor, threads, PyTorch, commit, devices, --compile and live or cached teacher outputs agree, losses and
    metrics have to be equal digit for digit. Elsewhere the losses of the first 20 steps, which records keep, have to
    agree within 1e-3; accuracies are reported and not judged. Weights that are measured on other hardware have to give
    the recorded accuracy up to 0.1 %, or 3 images.

    A published folder holds no weights and no teachers: put each model.safetensors beside its record, or name a folder
    of runs that has them with --weights, such as one into which you have imported the teacher.

    The exit code is 1 where anything differs. What cannot be checked is listed with the reason, and is no difference.
    """
    _check_options(retrain=retrain, epochs=epochs, seed=seed, out=out)
    from rich.console import Console

    from kdbench.engine.environment import environment
    from kdbench.utils.device import pick_device, prepare_process
    from kdbench.utils.files import write_atomic
    from kdbench.verify.checking import check_files, draw, measure
    from kdbench.verify.data import DataSets
    from kdbench.verify.measuring import Measuring
    from kdbench.verify.report import Verification
    from kdbench.verify.stored import read_stored
    from kdbench.verify.training import Training

    datasets = DataSets(data or [], download, workers, report)
    place = prepare_process(pick_device(device))
    drawing = secrets.randbelow(_MAX_SEED) if seed is None else seed
    with progress_bar(Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=1.0)

        def observe(work: str, part: float) -> None:
            bar.update(task, description=work, completed=part)

        stored = read_stored(runs, weights)
        training = Training(stored.places, datasets, device, epochs, observe)
        drawn = draw(stored, training, retrain, drawing) if retrain else None
        findings = check_files(stored)
        findings += measure(stored, Measuring(datasets, place, observe), findings)
        findings += [training.finding(cell) for cell in (drawn.cells if drawn else ())]
    verification = Verification(stored, findings, drawn, drawing, epochs, environment(place))
    write_atomic(out, verification.markdown().encode(), "choose another file with --out FILE")
    echo(verification.summary("terminal"))
    echo(f"{verification.sentence}; report: {out}")
    if verification.differences:
        raise typer.Exit(1)


def _check_options(*, retrain: int, epochs: int, seed: int | None, out: Path) -> None:
    if retrain < 0:
        raise UserError(f"--retrain must be at least 0, not {retrain}")
    if epochs < 1:
        raise UserError(f"--epochs must be at least 1, not {epochs}")
    if seed is not None and not 0 <= seed <= _MAX_SEED:
        raise UserError(f"--seed must be between 0 and {_MAX_SEED}, not {seed}")
    if out.is_dir() or not out.name:
        raise UserError(f"--out {out} is a folder: name a file, such as verified.md")
