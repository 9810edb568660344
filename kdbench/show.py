"""What kdbench knows about its methods, networks, data sets, protocols and pairs, as tables and text."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from typing import Any

from kdbench.data.datasets import DATASETS
from kdbench.method import field_docs
from kdbench.models import NETWORKS
from kdbench.protocol import load_protocol, named_pairs, protocol_names, usual_pairs
from kdbench.registry import load_method, load_recipes, method_name, method_names

Rows = list[dict[str, Any]]


def methods() -> Rows:
    """One row a method."""
    rows = []
    for name in method_names():
        kind = load_method(name)
        views = kind.views(kind.Config()).num_views
        rows.append(
            {
                "method": name,
                "family": kind.FAMILY,
                "the teacher gives": ", ".join(sorted(kind.teacher_reads)) or "nothing",
                "views": views,
                "what": _card(name)[0],
            }
        )
    return rows


def networks() -> Rows:
    """One row a network."""
    return [{"network": name} for name in NETWORKS] + [
        {"network": "timm:NAME (any timm model with a linear classifier)"}
    ]


def datasets() -> Rows:
    """One row a data set."""
    return [{"dataset": name} for name in DATASETS] + [{"dataset": "npz:FILE (--data npz:FILE in place of a folder)"}]


def protocols() -> Rows:
    """One row a protocol."""
    found = [load_protocol(name) for name in protocol_names()]
    return [{"protocol": p.name, "data": p.dataset, "epochs": p.epochs, "what": p.title} for p in found]


def pairs() -> Rows:
    """One row a named pair, with the published accuracies of both networks trained alone."""
    rows = []
    for group, members in named_pairs().items():
        protocol = load_protocol(members.protocol)
        for pair in members.pairs:
            teacher, student = pair.split(">")
            rows.append(
                {
                    "set": group,
                    "pair": pair,
                    "teacher %": f"{protocol.accuracy[teacher]:.2f}",
                    "student %": f"{protocol.accuracy[student]:.2f}",
                }
            )
    return rows


LISTS = {"methods": methods, "networks": networks, "datasets": datasets, "protocols": protocols, "pairs": pairs}


def method_page(name: str) -> str:
    """A method's paper, idea, settings with their sources, and where paper and code differ."""
    name = method_name(name)
    kind = load_method(name)
    docs = field_docs(kind.Config)
    fields, recipes = dataclasses.fields(kind.Config), load_recipes(name)
    lines = [*_card(name), "", f"Reads of the teacher: {', '.join(sorted(kind.teacher_reads)) or 'nothing'}"]
    lines += [f"Views of each image: {kind.views(kind.Config()).num_views}", f"Version: {kind.VERSION}"]
    if fields:
        lines += ["", "Settings"]
    for field in fields:
        lines += _wrapped(f"{field.name} = {field.default!r}: {docs[field.name]}", 2)
        if field.name in kind.OURS:
            lines += _wrapped(f"our choice: {kind.OURS[field.name]}", 6)
    known = {pair for recipe in recipes for pair in recipe.pairs}
    rest = [pair for pair in usual_pairs() if pair not in known]
    if fields:
        lines += ["", "Published settings by pair"]
    for recipe in recipes:
        values = ", ".join(f"{k} = {v!r}" for k, v in recipe.settings.items()) or "the defaults"
        lines += _wrapped(f"{recipe.dataset}: {values}", 2)
        lines += [*_wrapped(f"for {', '.join(recipe.pairs)}", 6), *_wrapped(f"source: {recipe.source}", 6)]
    if rest and fields:
        lines += _wrapped("none published, so that using the defaults is our choice", 2)
        lines += _wrapped(f"for {', '.join(rest)}", 6)
    if kind.DEVIATIONS:
        lines += ["", "Where paper and code differ, and what is done here"]
        lines += [line for text in kind.DEVIATIONS for line in _wrapped(f"- {text}", 2)]
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 110, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))


def _card(name: str) -> list[str]:
    """The lines of a method's module docstring, without the legend of its shapes."""
    module = inspect.getmodule(load_method(name))
    text = (inspect.getdoc(module) or name).partition("\n\nLegend:")[0]
    return text.replace("``", "").splitlines()
