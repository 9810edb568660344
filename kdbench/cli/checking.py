"""What ``kdbench validate`` prints of a method, a network and a protocol."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.cli.options import console, echo, print_rows, spinner
from kdbench.engine.checks import networks, verdicts
from kdbench.engine.checks import validate as methods
from kdbench.engine.checks.small import PAIRS
from kdbench.engine.checks.table import CHECKS, Check
from kdbench.engine.checks.verdicts import Verdict
from kdbench.errors import UserError
from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.experiment.protocol import load_protocol, protocol_name
from kdbench.experiment.registry import load_method, method_name, method_names, method_source
from kdbench.experiment.said_rules import rules_said_by
from kdbench.models import canonical_network, network_version, own_network, own_networks
from kdbench.utils.names import squeeze
from kdbench.utils.text import counted
from kdbench.utils.values import shown


def check_method(name: str) -> bool:
    """Put a method through all checks, and print what became of them; return whether all hold."""
    if squeeze(name) not in map(squeeze, method_names()) and squeeze(name) in map(squeeze, own_networks()):
        raise UserError(f"{name} is a network: type 'kdbench validate network {name}'")
    name = method_name(name)
    title = f"{name}, version {load_method(name).VERSION}, {method_source(name).text}"
    progress = spinner(console())
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, progress:
        task = progress.add_task("")
        results = methods.validate(name, Path(scratch), lambda step: progress.update(task, description=step))
    echo(f"{title}, in steps of a few images on the CPU:\n")
    _print(results, CHECKS, list(PAIRS), [f"{pair}: {methods.pair_text(pair)}" for pair in PAIRS])
    return _sum_up(results, len(CHECKS), "method supports none of these pairs", ("pair", len(PAIRS)))


def check_network(name: str) -> bool:
    """Put a network through all checks, and print what became of them; return whether all hold."""
    name = canonical_network(name)
    source = own_network(name)
    title = f"{name}, version {network_version(name)}, {source.text}" if source else name
    progress = spinner(console())
    with progress:
        task = progress.add_task("")
        results = networks.validate(name, lambda step: progress.update(task, description=step))
    columns = list(dict.fromkeys(verdict.pair for verdict in results))
    checked = {verdict.check for verdict in results}
    checks = {key: check for key, check in networks.CHECKS.items() if key != "cuda" or key in checked}
    echo(f"{title}, on a few images of each size:\n")
    _print(results, checks, columns, networks.parts_of(name, results))
    return _sum_up(results, len(checks), "network takes none of these images", ("size", len(columns)))


def _print(
    results: Sequence[Verdict], checks: Mapping[str, Check[Any]], columns: Sequence[str], lines: Sequence[str]
) -> None:
    print_rows(verdicts.rows(results, checks, columns))
    echo("\n" + "\n".join(lines) + "\n")
    for line in verdicts.remarks(results, checks):
        echo(line)


def _sum_up(results: Sequence[Verdict], num_checks: int, unsupported: str, columns: tuple[str, int]) -> bool:
    """Print how many checks fail in a sentence; return whether all hold."""
    failed = {verdict.check for verdict in results if verdict.outcome == "FAILS"}
    supported = {verdict.pair for verdict in results if verdict.outcome == "ok"}
    refused = all(verdict.outcome == "refused" for verdict in results)
    if refused:
        echo(f"nothing was checked: the {unsupported}")
    elif failed:
        verb, rest = "fails" if len(failed) == 1 else "fail", "" if supported else "; the others could not be run"
        echo(f"{len(failed)} of {num_checks} checks {verb}{rest}")
    else:
        word, number = columns
        only = "" if len(supported) == number else f" on {len(supported)} of {number} {word}s only"
        echo(f"all {num_checks} checks passed{only}")
    return not failed and not refused


def check_protocol(name: str) -> bool:
    """Check each key of a protocol's file, and print all rules with where each is from; they hold if this returns."""
    name = protocol_name(name)
    protocol = load_protocol(name)
    said = rules_said_by(name)
    echo(f"{name}: {protocol.title} ({protocol.source})\n")
    values = {key: shown(value) for key, value in protocol.rules.values().items() if value is not None}
    if protocol.rules.schedule.name != "step":
        values["decay"] += ", in a method's pre-training alone"
    print_rows([{"rule": key, "value": value, "from": said[key]} for key, value in values.items()])
    counts = Counter(said[key] for key in values)
    echo()
    _check_names(name)
    epochs = protocol.epochs if protocol.teacher_epochs is None else protocol.teacher_epochs
    echo(f"teachers: {counted(epochs, 'epoch')}, by {protocol.baseline}")
    echo(f"rules from {', '.join(f'{file} ({number})' for file, number in counts.items())}")
    echo(f"identity: {identity_hash(identity_text(protocol.identity()))[:16]}, of the name and all rules")
    return True


def _check_names(name: str) -> None:
    """Raise UserError where a protocol names a method, network or pair that there is not."""
    protocol = load_protocol(name)
    for method in (protocol.baseline, *protocol.demo.methods):
        method_name(method)
    for network in protocol.accuracy:
        canonical_network(network)
