"""``kdbench cache``: build, check, list and delete caches of teacher outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.options import (
    DataOption,
    DatasetOption,
    DeviceOption,
    DownloadOption,
    EpochsOption,
    PrecisionOption,
    ProtocolOption,
    RunsOption,
    SeedsOption,
    TeacherHelp,
    WorkersOption,
    console,
    echo,
    next_command,
    print_rows,
    spinner,
)
from kdbench.cli.running import find_scheduler, open_session
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.engine.session import Session
    from kdbench.teachers.cards import TeacherCard

app = typer.Typer(help="Build, check, list and delete caches of teacher outputs.", no_args_is_help=True)


@app.command("build")
def cache_build(
    protocol: ProtocolOption,
    teacher: Annotated[str, typer.Option(help=TeacherHelp)],
    method: Annotated[list[str], typer.Option(help="Method that will read the cache; may be repeated.")],
    seed: SeedsOption = None,
    epochs: EpochsOption = None,
    precision: PrecisionOption = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    dataset: DatasetOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    workers: WorkersOption = None,
) -> None:
    """Run a teacher once on every view that methods and seeds will see, and store its outputs."""
    from kdbench.engine.display import Display
    from kdbench.experiment.cell import TeacherRef
    from kdbench.teachers.demand import Wanted, unsupported
    from kdbench.teachers.plan import Demand

    session = open_session(
        protocol,
        runs=runs,
        data=data,
        dataset=dataset,
        epochs=epochs,
        precision=precision,
        device=device,
        download=download,
        workers=workers,
    )
    cards = _networks(session, teacher)
    ref = TeacherRef.joined(card.ref for card in cards)
    cells = [
        session.cell(method=name, student=cards[0].network, teacher=ref, seed=number)
        for name in dict.fromkeys(method)
        for number in dict.fromkeys(seed or [1])
    ]
    if uncacheable := {cell.method for cell in cells if not Wanted.by(cell).cacheable}:
        names = ", ".join(sorted(uncacheable))
        raise UserError(f"method {names} reads outputs that caches do not store, such as feature maps: leave it out")
    for cell in cells:
        if reason := unsupported(cell):
            raise UserError(f"method {cell.method} cannot run: {reason}")
        try:
            session.device_data.images.check(Wanted.by(cell).plan)
        except UserError as error:
            raise UserError(f"method {cell.method} cannot run: {error}; leave it out") from None
    with Display(console()) as display:
        wanted = [Wanted.by(cell) for cell in cells]
        caches = [Demand.of(session.teachers, card, wanted).build(session.teachers, display) for card in cards]
    methods = ", ".join(dict.fromkeys(cell.method for cell in cells))
    for cache in caches:
        echo(f"cache {cache.folder} holds all teacher outputs that {methods} will read")


@app.command("check")
def cache_check(
    protocol: ProtocolOption,
    teacher: Annotated[str, typer.Option(help=TeacherHelp)],
    precision: PrecisionOption = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    dataset: DatasetOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    workers: WorkersOption = None,
) -> None:
    """Read all files of a teacher's cache, and query the teacher again for a sample of what it holds."""
    session = open_session(
        protocol,
        runs=runs,
        data=data,
        dataset=dataset,
        precision=precision,
        device=device,
        download=download,
        workers=workers,
    )
    for card in _networks(session, teacher):
        _check(session, card)


def _networks(session: Session, teacher: str) -> list[TeacherCard]:
    """Return the networks that a user names as a teacher, several of an ensemble; a file of logits has no cache."""
    from kdbench.experiment.pairs import TeacherSpec

    cards = [session.teachers.card(member) for member in session.teachers.named(TeacherSpec.parse(teacher)).members]
    if not (networks := [card for card in cards if not card.ref.is_file]):
        raise UserError(f"{teacher} is a file of logits, which is read as it is: it has no cache, and needs none")
    return networks


def _check(session: Session, card: TeacherCard) -> None:
    """Check the cache of a network, and say what was found."""
    from kdbench.teachers.outputs import Query

    store = session.teachers
    cache = store.cache(card)
    with spinner(console()) as waiting:
        waiting.add_task(f"reading {cache.folder}")
        views = cache.verify()
        if not views:
            raise UserError(
                f"{card.spec} has no cache for this data in {session.protocol.precision}: 'kdbench cache build' makes "
                "one, with the same options and --method NAME"
            )
        sample = cache.check(Query(store.live(card), session.device_data))
    echo(
        f"cache {cache.folder}: all files are as they were written, {views:,} views; {sample} of them were queried "
        "again, and are what the teacher outputs, up to rounding"
    )


@app.command("list")
def cache_list(runs: RunsOption = Path("runs")) -> None:
    """List the caches in a folder of runs."""
    from kdbench.teachers.cache_list import list_caches
    from kdbench.utils.text import size

    caches = list_caches(runs)
    if not caches:
        echo(
            f"no teacher caches in {runs}: type 'kdbench cache build' to make one; 'kdbench train' makes one where "
            "that saves forward passes"
        )
        return
    print_rows(
        [
            {
                "cache": cache.name,
                "teacher": f"{cache.identity.network} {cache.identity.weights[:8]}" if cache.identity else "unreadable",
                "precision": cache.identity.precision if cache.identity else "",
                "views": f"{cache.pairs:,}",
                "stored": ", ".join(cache.parts),
                "segments": cache.segments,
                "unfinished": cache.unfinished,
                "size": size(cache.bytes),
            }
            for cache in caches
        ]
    )


@app.command("prune")
def cache_prune(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Caches to delete; 'kdbench cache list' lists them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all caches.")] = False,
    runs: RunsOption = Path("runs"),
) -> None:
    """Delete caches; without names, those whose teacher no longer exists, and unfinished builds."""
    from kdbench.teachers.cache_folder import FOLDER
    from kdbench.teachers.cache_list import list_caches, remove_cache
    from kdbench.teachers.cards import protocols_with_teachers, read_cards
    from kdbench.utils.leases import tidy
    from kdbench.utils.text import size

    if names and everything:
        raise UserError(f"--all deletes every cache: leave it out to delete {', '.join(names)} only")
    caches = {cache.name: cache for cache in list_caches(runs)}
    if missing := sorted(set(names or []) - caches.keys()):
        listing = next_command(context, "cache", "list", keep=("runs",))
        raise UserError(f"no cache {', '.join(missing)} in {runs}: type {listing} to list those that exist")
    read = [read_cards(runs, name) for name in protocols_with_teachers(runs)]
    weights = {card.weights for cards, _ in read for card in cards}
    damaged = [error for _, errors in read for error in errors.values()]
    scheduler, total = find_scheduler(), 0
    for name, cache in caches.items():
        doubt = "its description cannot be read" if cache.identity is None else str(damaged[0]) if damaged else ""
        orphaned = cache.identity is None or cache.identity.weights not in weights
        if orphaned and doubt and not names and not everything:
            echo(f"{name}: kept, since its teacher is not known: {doubt}; give its name to delete it")
            orphaned = False
        whole = everything or name in (names or []) or (not names and orphaned)
        if not whole and (names or not cache.unfinished):
            tidy(runs / FOLDER / name, scheduler)
            continue
        freed = remove_cache(runs, name, unfinished_only=not whole, scheduler=scheduler)
        if freed is None:
            echo(f"{name}: kept, since a process is using it")
        else:
            echo(f"{name}: {'deleted' if whole else 'unfinished builds deleted'}, {size(freed)}")
            total += freed
    echo(f"{size(total)} freed")
