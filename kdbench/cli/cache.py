"""``kdbench cache``: build, list and delete caches of teacher outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import Data, Device, Download, Epochs, Precision, Protocol, Runs, console, print_rows
from kdbench.errors import UserError

app = typer.Typer(help="Build, list and delete caches of teacher outputs.", no_args_is_help=True)


@app.command("build")
def cache_build(
    protocol: Protocol,
    teacher: Annotated[str, typer.Option(help="NETWORK, or NETWORK@HASH where there are several.")],
    method: Annotated[list[str], typer.Option(help="Which methods will read it; may be repeated.")],
    seed: Annotated[list[int] | None, typer.Option(help="Their seeds; may be repeated. [default: 1]")] = None,
    epochs: Epochs = None,
    precision: Precision = None,
    runs: Runs = Path("runs"),
    data: Data = "data",
    download: Download = False,
    device: Device = None,
) -> None:
    """Ask a teacher for every view that some methods and seeds will visit, once, and keep what it says."""
    from kdbench.engine.display import Display  # noqa: PLC0415
    from kdbench.engine.session import Session  # noqa: PLC0415
    from kdbench.experiment.pairs import TeacherSpec  # noqa: PLC0415
    from kdbench.models import canonical_network  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.teachers.demand import Wanted  # noqa: PLC0415
    from kdbench.teachers.plan import Demand  # noqa: PLC0415

    session = Session.open(
        protocol,
        runs=runs,
        data=data,
        epochs=epochs,
        precision=precision,
        device=device,
        download=download,
        scheduler=Slurm(),
    )
    spec = TeacherSpec.parse(teacher)
    card = session.teachers.find(spec, canonical_network(spec.network))
    cells = [
        session.cell(method=name, student=card.network, teacher=card.spec, seed=number)
        for name in method
        for number in seed or [1]
    ]
    if maps := {cell.method for cell in cells if not Wanted.by(cell).cacheable}:
        raise UserError(f"method {', '.join(sorted(maps))} reads feature maps, which are not kept: leave it out")
    with Display(console) as display:
        cache = Demand.of(session.teachers, card, [Wanted.by(cell) for cell in cells]).build(session.teachers, display)
    console.print(f"cache {cache.folder} has all that {', '.join(dict.fromkeys(c.method for c in cells))} will ask for")


@app.command("list")
def cache_list(runs: Runs = Path("runs")) -> None:
    """List the caches that are there."""
    from kdbench.teachers.cache_list import list_caches  # noqa: PLC0415
    from kdbench.utils.text import size  # noqa: PLC0415

    caches = list_caches(runs)
    if not caches:
        console.print(
            f"no teacher caches in {runs}: 'kdbench cache build' makes one, and 'kdbench train' where it pays"
        )
        return
    print_rows(
        [
            {
                "cache": c.name,
                "teacher": f"{c.identity.network} {c.identity.weights[:8]}" if c.identity else "unreadable",
                "precision": c.identity.precision if c.identity else "",
                "views": f"{c.pairs:,}",
                "kept": ", ".join(c.parts),
                "segments": c.segments,
                "unfinished": c.unfinished,
                "size": size(c.bytes),
            }
            for c in caches
        ]
    )


@app.command("prune")
def cache_prune(
    names: Annotated[
        list[str] | None, typer.Argument(help="Caches to delete; 'kdbench cache list' names them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all caches.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Delete caches; without names, those whose teacher is gone and builds that were never finished."""
    from kdbench.experiment.protocol import protocol_names  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.teachers.cache_list import list_caches, remove_cache  # noqa: PLC0415
    from kdbench.teachers.cards import list_teachers  # noqa: PLC0415
    from kdbench.utils.text import size  # noqa: PLC0415

    caches = {c.name: c for c in list_caches(runs)}
    if unknown := sorted(set(names or []) - caches.keys()):
        raise UserError(f"no cache {', '.join(unknown)} in {runs}: 'kdbench cache list' names those that are there")
    weights = {card.weights for name in protocol_names() for card in list_teachers(runs, name)}
    freed = 0
    for name, cache in caches.items():
        orphaned = cache.identity is None or cache.identity.weights not in weights
        whole = everything or name in (names or []) or (not names and orphaned)
        if not whole and (names or not cache.unfinished):
            continue
        found = remove_cache(runs, name, unfinished_only=not whole, scheduler=Slurm())
        if found is None:
            console.print(f"{name} is in use: left alone")
        else:
            console.print(f"{name}: {'deleted' if whole else 'unfinished builds deleted'}, {size(found)}")
            freed += found
    console.print(f"{size(freed)} freed")
