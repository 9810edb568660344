"""Protocols: the training rules that all methods share, named and versioned."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.own_code import RESERVED
from kdbench.experiment.rule_groups import scaled_side
from kdbench.experiment.rules import Rules, read_rules
from kdbench.experiment.toml_tables import place_hint, read_table
from kdbench.utils.names import find_name, squeeze
from kdbench.utils.precision import Precision
from kdbench.utils.reading import Unreadable, read_toml
from kdbench.utils.values import argument, whole_number

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KINDS = {
    "optimizer": (
        "name",
        "SGD",
        frozenset({"learning_rate", "network_learning_rate", "weight_decay", "momentum", "nesterov", "betas"}),
    ),
    "schedule": ("name", "step", frozenset({"milestones"})),
    "augmentation": (
        "crop",
        "pad",
        frozenset({"pad", "size", "scale", "ratio", "interpolation", "evaluation_size", "pool"}),
    ),
}
"""Of tables that say which of several things they describe: the key that does, its default, and keys of only some."""
_FOLDER = Path(__file__).parent / "protocols"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A first look that a protocol proposes."""

    pair: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    next: str = ""
    """The protocol to continue with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Rules with a name, and what is said of them. Of a cell's results only ``name`` and ``rules`` are an identity."""

    name: str
    title: str
    source: str
    rules: Rules
    teacher_epochs: int | None = None
    """Epochs that teachers are trained for; None for as many as the students.

    It enters a student's identity by its teacher's own cell alone.
    """
    baseline: str
    """The method that trains a network without a teacher; it also trains the teachers."""
    demo: Demo
    accuracy: dict[str, float] = field(default_factory=dict)
    """Published test accuracies of baselines, in percent; imported teachers are checked against them."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.rules.data.dataset

    @property
    def epochs(self) -> int:
        """Epochs of a student, without pre-training."""
        return self.rules.schedule.epochs

    @property
    def batch_size(self) -> int:
        """Images of a training batch."""
        return self.rules.schedule.batch_size

    @property
    def precision(self) -> Precision:
        """Precision of the forward pass."""
        return self.rules.precision

    def identity(self) -> dict[str, Any]:
        """Return what decides results, as plain values by their flat keys."""
        return {"name": self.name, **self.rules.identity()}

    def override(self, **changes: Any) -> Protocol:
        """Return the protocol with other rules, by their flat keys; None means unchanged.

        ``epochs`` is the length of teachers too.

        Raises
        ------
        UserError
            There is no such rule, or a value is out of range.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        if "epochs" in given:
            with argument("--epochs"):
                given["epochs"] = whole_number(given["epochs"], 1)
        try:
            rules = self.rules.replace(**given)
        except ValueError as error:
            raise UserError(f"protocol {self.name}: {error}") from None
        teacher_epochs = None if "epochs" in given else self.teacher_epochs
        return dataclasses.replace(self, rules=rules, teacher_epochs=teacher_epochs)

    def with_side(self, side: int) -> Protocol:
        """Return the protocol for networks that take images of another side, in pixels, cut from the same boxes."""
        rules = self.rules.augmentation
        if rules.crop == "pad":
            return self.override(crop_size=side)
        assert rules.size is not None
        assert rules.evaluation_size is not None
        return self.override(crop_size=side, evaluation_size=scaled_side(rules.evaluation_size, side, rules.size))

    def for_teachers(self, *, hold_out: bool = False, epochs: int | None = None) -> Protocol:
        """Return the protocol that teachers are trained under: on all images, unless those held out are left out.

        ``epochs`` is the length of the whole schedule. With 0, weights stay as drawn, and batch norms get statistics.
        """
        protocol = self if hold_out else self.override(validation=0.0)
        if epochs == 0:
            return protocol.override(epochs=1, learning_rate=0.0, network_learning_rate={})
        return protocol.override(epochs=self.teacher_epochs if epochs is None else epochs)

    def overrides(self) -> dict[str, Any]:
        """Return the rules that differ from those of the named protocol, by their flat keys."""
        named = load_protocol(self.name).rules.values()
        return {key: value for key, value in self.rules.values().items() if named[key] != value}


def protocol_names() -> list[str]:
    """Names of all protocols, those of users included."""
    return sorted(protocol_files())


def protocol_name(name: str) -> str:
    """Return the one spelling of a protocol's name."""
    return _find(name, protocol_files())


def flaw_of_name(name: str) -> str:
    """Return why there can be no protocol of this name; empty if there can."""
    if name in RESERVED:
        return f"{name} is a word of 'kdbench new' and 'kdbench validate'"
    return "" if _NAME.fullmatch(name) else "the name of a protocol is letters, digits, '.', '_' and '-'"


def load_protocol(name: str) -> Protocol:
    """Read a protocol by name, in any spelling.

    Raises
    ------
    UserError
        There is none, or the file of one's own cannot be used.
    """
    files = protocol_files()
    name = _find(name, files)
    return read_protocol(name, values_of(name, files), str(files[name]))


def _find(name: str, files: Mapping[str, Path]) -> str:
    remedy = "'kdbench list protocols' names all"
    if not own_folders.folders_of("protocols"):
        remedy += f"; one of your own is {own_folders.found_with('--own', own_folders.OWN)}"
    return find_name("protocol", name, files, remedy)


def protocol_files() -> dict[str, Path]:
    """Return the file of each protocol: those of kdbench, and those in a user's folders."""
    own_folders.check()
    found = {file.stem: file for file in sorted(_FOLDER.glob("*.toml"))}
    spellings = {squeeze(name): name for name in found}
    for file in (file for folder in own_folders.folders_of("protocols") for file in sorted(folder.glob("[!_.]*.toml"))):
        if flaw := flaw_of_name(file.stem):
            raise UserError(f"{file}: {flaw}: rename the file")
        other = spellings.setdefault(squeeze(file.stem), file.stem)
        if other in found:
            raise UserError(f"protocol {file.stem} of {file} has the name of {other} of {found[other]}: rename it")
        found[file.stem] = file
    return found


def values_of(name: str, files: Mapping[str, Path], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what the file of a protocol says, and of the one on which it is based what it says nothing about."""
    where = str(files[name])
    try:
        values = read_toml(files[name])
    except Unreadable as error:
        raise UserError(f"{where} {error}") from None
    if "base" not in values:
        return values
    given = values.pop("base")
    if not isinstance(given, str):
        raise UserError(f"{where}: base must be the name of a protocol, not {given!r}")
    try:
        base = find_name("protocol", given, files, "'kdbench list protocols' names all")
    except UserError as error:
        raise UserError(f"{where}: base: {error}") from None
    if base in (*above, name):
        raise UserError(f"{where}: base: {' > '.join((*above, name, base))} has no beginning: base one on another")
    described = {"title": f"on the rules of {base}", "source": f"{files[name].name}, on the rules of {base}"}
    return _on_top(values_of(base, files, (*above, name)), described | values)


def _on_top(below: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with those below where they say nothing: key by key, in tables too.

    Of another optimiser, schedule or kind of crop, what only the one below has is left out; so are published accuracies
    on other data.
    """
    merged = dict(below)
    for key, value in values.items():
        table = below.get(key)
        if isinstance(value, dict) and isinstance(table, dict):
            word, default, its_own = _KINDS.get(key, ("", "", frozenset()))
            other = word in value and value[word] != table.get(word, default)
            merged[key] = {each: it for each, it in table.items() if not (other and each in its_own)} | value
        else:
            merged[key] = value
    if merged.get("data") != below.get("data") and "accuracy" not in values:
        merged.pop("accuracy", None)
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class _TeacherTable:
    """Table ``[teacher]`` of a protocol's file."""

    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """What a protocol's file holds beside its rules."""

    title: str
    source: str
    baseline: str
    teacher: _TeacherTable = field(default_factory=_TeacherTable)
    demo: Demo
    accuracy: dict[str, float] = field(default_factory=dict)


def read_protocol(name: str, values: Mapping[str, Any], where: str) -> Protocol:
    """Make a protocol of what its file says.

    Raises
    ------
    UserError
        A key is unknown or missing, or a value is of the wrong kind or out of range; the message begins with ``where``.
    """
    rules, about = ([f.name for f in dataclasses.fields(kind)] for kind in (Rules, _About))
    for key in values:
        if key not in {*rules, *about}:
            known = ", ".join((*about, *rules))
            raise UserError(f"{where}: unknown key {key!r}: known are {known}{place_hint(Rules, key)}")
    described = read_table(_About, {key: value for key, value in values.items() if key in about}, where)
    resolved = read_table(Rules, {key: values[key] for key in rules if key in values}, where)
    if not resolved.optimizer.learning_rate:  # only teachers of random weights have it
        raise UserError(f"{where}: [optimizer]: learning_rate must be > 0, not 0.0")
    return Protocol(
        name=name,
        title=described.title,
        source=described.source,
        rules=resolved,
        teacher_epochs=described.teacher.epochs,
        baseline=described.baseline,
        demo=described.demo,
        accuracy=described.accuracy,
    )


def protocol_of(identity: Mapping[str, Any], where: str) -> Protocol:
    """Return the protocol in a cell's identity, which need not be known by its name any more; it describes nothing.

    It raises as :func:`kdbench.experiment.rules.read_rules` does.
    """
    rules = read_rules({key: value for key, value in identity.items() if key != "name"}, where)
    return Protocol(
        name=str(identity["name"]),
        title="",
        source="",
        rules=rules,
        baseline="",
        demo=Demo(pair="", methods=(), seeds=()),
    )
