"""Find a network's weights among what a checkpoint of others holds.

Code bases put a state dict under a name of theirs, beside others, and its entries behind prefixes: ``module.`` of
DataParallel, ``_orig_mod.`` of a compiled network, the attribute of a module that holds the network. So every dict of
tensors and every prefix in it is tried; the weights are those that fit the network and leave no entry over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import UserError
from kdbench.models.checkpoint_files import read_checkpoint
from kdbench.models.weights import COUNTER, describe_misfit, load_weights, other_classes, own_classifier, weights_hash
from kdbench.net import Net
from kdbench.utils.text import printable

_MAX_DEPTH = 4
"""How deep state dicts may lie in a checkpoint."""
_PROFILED = ("total_ops", "total_params")
"""How the entries end that profilers add to each layer."""


@dataclass(frozen=True, slots=True)
class _Group:
    """The entries of one dict of tensors whose names begin with a prefix."""

    place: tuple[str, ...]
    """Keys that lead to the dict."""
    prefix: str
    weights: Mapping[str, Tensor]
    """By the network's names."""
    names: Mapping[str, str]
    """How the file calls them, and how it would call those that are missing."""
    other_classes: int | None = None
    """Number of classes of the file's classifier, where the network's stands in its place."""

    @property
    def label(self) -> str:
        """What ``--key`` calls it: its place and prefix; empty for the checkpoint itself."""
        return ".".join((*self.place, *filter(None, self.prefix.split("."))))

    def is_called(self, key: str) -> bool:
        """Return whether a key means this group: its label, or names in it that follow each other."""
        return f".{key}." in f".{self.label}."


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded of a checkpoint."""

    label: str
    """The keys that lead to the weights and the prefix of their names; empty if they are all that the file holds."""
    chosen: bool
    """Whether other weights in the file fit as well."""
    other_classes: int | None = None
    """Number of classes of the classifier that was left out, as the network's has others."""


def load_checkpoint(net: Net, path: Path, key: str | None = None, *, any_classes: bool = False) -> Loaded:
    """Load a checkpoint's weights into a network.

    Parameters
    ----------
    key
        Which weights are meant where several fit the network, as a network's own and their running mean (EMA).
    any_classes
        Whether weights for another number of classes fit: the network keeps its own classifier then.

    Raises
    ------
    UserError
        The file cannot be read, or nothing in it or more than one thing fits the network.
    """
    content = read_checkpoint(path)
    groups = _groups(net, content)
    if not groups:
        raise UserError(f"{path} holds no state dict: a dict of tensors, alone or under a name such as 'model'")
    if any_classes:
        groups = [_with_own_classifier(net, group) for group in groups]
    fits = _distinct([group for group in groups if not describe_misfit(net, group.weights, group.names)])
    group = _choose(fits, key, net, path) if fits else _nearest(groups, key)
    if _is_simkd(content, group):
        raise UserError(
            f"{path} is a student of simkd: behind its body are a projector and its teacher's classifier, so it is no "
            f"{net.name}"
        )
    load_weights(net, group.weights, str(path), group.names)
    return Loaded(group.label, len(fits) > 1, group.other_classes)


def _with_own_classifier(net: Net, group: _Group) -> _Group:
    """Return a group with the network's classifier where its own is for another number of classes."""
    classes = other_classes(net, group.weights)
    if classes is None:
        return group
    return replace(group, weights={**group.weights, **own_classifier(net)}, other_classes=classes)


def _choose(fits: list[_Group], key: str | None, net: Net, path: Path) -> _Group:
    """Return the one group that is meant."""
    listed = ", ".join(printable(group.label) or "''" for group in fits)
    meant = fits
    if key is not None:
        exact = [group for group in fits if group.label == key]
        meant = exact or [group for group in fits if group.is_called(key)]
    if not meant:
        raise UserError(f"{path} holds no weights of {net.name} under {key!r}: type --key with one of {listed}")
    if len(meant) > 1:
        distiller = any(group.is_called("student") for group in fits)
        hint = "; mdistiller saves the student alone as student_best" if distiller else ""
        raise UserError(f"{path} holds several weights of {net.name}: choose with --key one of {listed}{hint}")
    return meant[0]


def _nearest(groups: list[_Group], key: str | None) -> _Group:
    """Return the group that a message is about if none fits."""
    meant = [group for group in groups if key is not None and group.is_called(key)] or groups
    return max(meant, key=lambda group: len(group.names) - len(group.names.keys() - group.weights.keys()))


def _groups(net: Net, content: Any) -> list[_Group]:
    """Return each dict's entries under those prefixes that hold all of the network, else under the likeliest one."""
    groups: list[_Group] = []
    expected = {name.removeprefix(net.backbone.PREFIX) for name in net.backbone.state_dict()}
    for place, values in _state_dicts(content):
        hits = _hits(values, expected)
        needed = [name for name in expected if not name.endswith(COUNTER)]
        whole = [prefix for prefix in hits if all(prefix + name in values for name in needed)]
        deeper: list[str] = []
        for prefix in sorted(whole or [max(hits, key=hits.__getitem__, default="")], key=len, reverse=True):
            # What belongs to another network inside this one is none of its entries.
            rest = [
                name.removeprefix(prefix)
                for name in values
                if name.startswith(prefix) and not name.startswith(tuple(deeper)) and not name.endswith(_PROFILED)
            ]
            weights = {net.backbone.PREFIX + name: values[prefix + name] for name in rest}
            names = {net.backbone.PREFIX + name: prefix + name for name in (*rest, *expected)}
            if not describe_misfit(net, weights, names):
                deeper.append(prefix)
            groups.append(_Group(place, prefix, weights, names))
    return groups


def _hits(values: Collection[str], expected: Collection[str]) -> Counter[str]:
    """Count for each prefix of names how many of the expected ones follow it."""
    hits = Counter[str]()
    for name in values:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                hits["".join(f"{part}." for part in parts[:start])] += 1
    return hits


def _state_dicts(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the dicts of tensors in a checkpoint, each with the keys that lead to it."""
    if not isinstance(content, Mapping):
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in content.items() if len(place) < _MAX_DEPTH else ():
        if isinstance(name, str):
            yield from _state_dicts(value, (*place, name))


def _distinct(groups: list[_Group]) -> list[_Group]:
    """Return the groups without repetitions of the same weights."""
    distinct: dict[str, _Group] = {}
    for group in groups:
        plain = all(value.layout == torch.strided and not value.is_meta for value in group.weights.values())
        distinct.setdefault(weights_hash(dict(group.weights)) if plain else group.label, group)
    return list(distinct.values())


def _is_simkd(content: Any, group: _Group) -> bool:
    """Return whether weights are a body whose classifier simkd replaces, here or in its authors' code."""
    if group.prefix.endswith("body."):
        outer = group.prefix.removesuffix("body.")
        values = reduce(getitem, group.place, content)
        return all(any(name.startswith(outer + part) for name in values) for part in ("projector.", "classifier."))
    return bool(group.place) and isinstance(reduce(getitem, group.place[:-1], content).get("proj"), Mapping)
