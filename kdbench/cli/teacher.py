"""``kdbench teacher``: train, import and list teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import (
    Data,
    Device,
    Download,
    Epochs,
    Network,
    Precision,
    Protocol,
    Runs,
    SaveEvery,
    console,
    print_rows,
)
from kdbench.cli.running import train_teacher_shown

app = typer.Typer(help="Train, import and list teachers.", no_args_is_help=True)


@app.command("train")
def teacher_train(
    protocol: Protocol,
    network: Network,
    seed: Annotated[int, typer.Option(help="The teacher's own seed.")] = 0,
    epochs: Epochs = None,
    precision: Precision = None,
    runs: Runs = Path("runs"),
    data: Data = "data",
    download: Download = False,
    device: Device = None,
    save_every: SaveEvery = 60.0,
) -> None:
    """Train a network alone and make it a teacher."""
    from kdbench.engine.session import Session  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415

    session = Session.open(
        protocol,
        runs=runs,
        data=data,
        epochs=epochs,
        precision=precision,
        device=device,
        download=download,
        save_every=save_every,
        scheduler=Slurm(),
    )
    card = train_teacher_shown(session, network, seed)
    console.print(f"teacher {card.spec}: {card.accuracy:.2f} % on the test set of {card.dataset}")


@app.command("import")
def teacher_import(
    file: Annotated[Path, typer.Argument(help="A checkpoint of mdistiller or RepDistiller, or safetensors.")],
    protocol: Protocol,
    network: Network,
    accuracy: Annotated[float | None, typer.Option(help="Its expected test top-1 in percent.")] = None,
    runs: Runs = Path("runs"),
    data: Data = "data",
    download: Download = False,
    device: Device = None,
) -> None:
    """Import a checkpoint as a teacher, after measuring it."""
    from kdbench.engine.session import Session  # noqa: PLC0415

    session = Session.open(protocol, runs=runs, data=data, device=device, download=download)
    card = session.import_teacher(file, network, expected=accuracy)
    checked = "not checked: none is known" if card.expected is None else f"expected {card.expected:.2f} %"
    console.print(f"teacher {card.spec}: {card.accuracy:.2f} % on the test set of {card.dataset} ({checked})")


@app.command("list")
def teacher_list(protocol: Annotated[str | None, typer.Option()] = None, runs: Runs = Path("runs")) -> None:
    """List the teachers that are there."""
    from kdbench.experiment.protocol import load_protocol, protocol_names  # noqa: PLC0415
    from kdbench.teachers.cards import list_teachers  # noqa: PLC0415

    names = [load_protocol(protocol).name] if protocol else protocol_names()
    cards = [(name, card) for name in names for card in list_teachers(runs, name)]
    if not cards:
        console.print(f"no teachers in {runs}: 'kdbench teacher train' or 'kdbench teacher import' makes one")
        return
    print_rows(
        [
            {
                "protocol": name,
                "teacher": c.spec,
                "data": c.dataset,
                "top-1 %": f"{c.accuracy:.2f}",
                "origin": c.origin,
            }
            for name, c in cards
        ]
    )
