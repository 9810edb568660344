"""What kdbench knows about its methods, networks, data sets, protocols and pairs, as tables and text."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
from typing import Any

import torch

from kdbench.config import field_docs
from kdbench.data.datasets import DATASETS, SHAPES, Dataset
from kdbench.engine.phase import count_extra_parameters
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair, named_pairs, usual_pairs
from kdbench.experiment.protocol import Protocol, load_protocol, protocol_names
from kdbench.experiment.registry import load_method, method_name, method_names, method_source
from kdbench.experiment.settings import load_recipes, resolve_settings
from kdbench.method import Method, Setup
from kdbench.models import NETWORKS
from kdbench.models.build import build_net
from kdbench.net import Net

Rows = list[dict[str, Any]]


def methods(pair: Pair | None, protocol: Protocol) -> tuple[Rows, list[str]]:
    """One row a method, and remarks on those that cannot be used, or not on the pair.

    Parameters
    ----------
    pair
        Where given, what each method trains beside its student is counted, under a protocol.
    """
    setup = _setup(pair, protocol) if pair else None
    sources = {name: method_source(name) for name in method_names()}
    rows: Rows = []
    remarks = []
    for name, source in sources.items():
        try:
            kind = load_method(name)
        except UserError as error:
            remarks.append(f"broken: {error}")
            row: dict[str, Any] = {"method": name, "family": "broken"}
        else:
            row = {
                "method": name,
                "family": kind.FAMILY,
                "year": str(kind.PAPER.year) if kind.PAPER else "",
                "paper": paper_line(name),
                "the teacher gives": ", ".join(sorted(kind.all_reads(kind.Config()).teacher)) or "nothing",
                "views": kind.views(kind.Config()).num_views,
                "pre-training": _pretraining(kind),
            }
            if setup:
                counted, remark = _extra_parameters(name, protocol, setup)
                row |= {"extra parameters": counted}
                remarks += [f"{counted}, {name}: {remark}"] if remark else []
        if any(other.own for other in sources.values()):
            row |= {"from": source.origin if source.own else ""}
        rows.append(row)
    return rows, remarks


def _pretraining(kind: type[Method]) -> str:
    """Length of pre-training by default, in percent of the protocol's epochs; empty where there is none."""
    part = kind.pretraining(kind.Config())
    return f"{100 * part:g} %" if part else ""


def _setup(pair: Pair, protocol: Protocol) -> Setup:
    """What methods are built from, on a pair and images of a protocol that nobody has to load."""
    teacher, student = (_net(name, protocol.name) for name in (pair.teacher.network, pair.student))
    labels = _unseen(protocol).train_labels
    return Setup(student=student, teacher=teacher, labels=labels, epochs=protocol.epochs, steps_per_epoch=1)


@functools.cache
def _net(network: str, protocol: str) -> Net:
    rules = load_protocol(protocol)
    return build_net(network, rules, _unseen(rules), seed=0, purpose="list")


def _unseen(protocol: Protocol) -> Dataset:
    """A data set of the protocol's size, without its images."""
    num_images, side, num_classes = SHAPES[protocol.dataset]
    images = torch.zeros(1, dtype=torch.uint8).expand(num_images, side, side, 3)
    labels = torch.arange(num_images) % num_classes
    return Dataset(protocol.dataset, images, labels, images, labels, num_classes)


def _extra_parameters(name: str, protocol: Protocol, setup: Setup) -> tuple[str, str]:
    """How many parameters a method trains beside the student, or that it cannot, and why."""
    teacher, student = setup.teacher.name, setup.student.name
    try:
        config = resolve_settings(name, dataset=protocol.dataset, teacher=teacher, student=student).config
        method = load_method(name)(config, setup)
        made = method.wrap(setup)
    except ValueError as error:
        return "refused", str(error)
    except Exception as error:
        return "fails", method_source(name).place_of(error)
    return f"{count_extra_parameters(setup.student, made, method):,}", ""


def _refusal(name: str, pair: Pair) -> str:
    """Why a method cannot work on a pair; empty where it can."""
    protocol = load_protocol(next(members.protocol for members in named_pairs().values() if pair in members.pairs))
    counted, reason = _extra_parameters(name, protocol, _setup(pair, protocol))
    return reason if counted == "refused" else ""


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
    return [
        {
            "set": name,
            "pair": str(pair),
            "teacher %": f"{accuracy[pair.teacher.network]:.2f}",
            "student %": f"{accuracy[pair.student]:.2f}",
        }
        for name, members in named_pairs().items()
        for accuracy in (load_protocol(members.protocol).accuracy,)
        for pair in members.pairs
    ]


LISTS = {"networks": networks, "datasets": datasets, "protocols": protocols, "pairs": pairs}


def method_page(name: str) -> str:
    """A method's paper, idea, settings with their sources, and where paper and code differ."""
    name = method_name(name)
    kind = load_method(name)
    docs = field_docs(kind.Config)
    fields, recipes = dataclasses.fields(kind.Config), load_recipes(name)
    lines = [
        *_head(name),
        "",
        f"Reads of the teacher: {', '.join(sorted(kind.all_reads(kind.Config()).teacher)) or 'nothing'}",
    ]
    views = kind.views(kind.Config())
    strong = f", {views.num_strong} strongly augmented" if views.num_strong else ""
    lines += [f"Views of each image: {views.num_views}{strong}"]
    if part := _pretraining(kind):
        lines += [f"Pre-training: {part} of the protocol's epochs, before its first"]
    lines += [f"Version: {kind.VERSION}"]
    if method_source(name).own:
        lines += [f"From: {method_source(name).where}", f"Records say: {method_source(name).text}"]
    if fields:
        lines += ["", "Settings"]
    for field in fields:
        lines += _wrapped(f"{field.name} = {field.default!r}: {docs[field.name]}", 2)
        if field.name in kind.OURS:
            lines += _wrapped(f"our choice: {kind.OURS[field.name]}", 6)
    known = {Pair.parse(pair) for recipe in recipes for pair in recipe.pairs}
    rest = [pair for pair in usual_pairs() if pair not in known] if fields else []
    if fields:
        lines += ["", "Published settings by pair"]
    for recipe in recipes:
        values = ", ".join(f"{k} = {v!r}" for k, v in recipe.settings.items()) or "the defaults"
        lines += _wrapped(f"{recipe.dataset}: {values}", 2)
        lines += [*_wrapped(f"for {', '.join(recipe.pairs)}", 6), *_wrapped(f"source: {recipe.source}", 6)]
    refused = {pair: reason for pair in rest if (reason := _refusal(name, pair))}
    if ours := [pair for pair in rest if pair not in refused]:
        lines += _wrapped("none published, so that using the defaults is our choice", 2)
        lines += _wrapped(f"for {', '.join(map(str, ours))}", 6)
    for pair, reason in refused.items():
        lines += _wrapped(f"refused on {pair}: {reason}", 2)
    if kind.DEVIATIONS:
        lines += ["", "Where paper and code differ, and what is done here"]
        lines += [line for text in kind.DEVIATIONS for line in _wrapped(f"- {text}", 2)]
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 110, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))


def _about(name: str) -> tuple[str, str]:
    """Return the first line of a method's module docstring, and the rest of it without the legend of its shapes."""
    text = inspect.getdoc(inspect.getmodule(load_method(name))) or name
    summary, _, rest = text.partition("\n\nLegend:")[0].replace("``", "").partition("\n\n")
    return " ".join(summary.split()), rest.rstrip()


def paper_line(name: str) -> str:
    """Return a method's paper in one line; the first line of its file where it has none."""
    if paper := load_method(name).PAPER:
        return str(paper)
    summary, _ = _about(name)
    return (summary.partition(": ")[2] or summary).rstrip(".")


def _head(name: str) -> list[str]:
    """Return what a method is called, its paper, and its idea."""
    (summary, rest), paper = _about(name), load_method(name).PAPER
    lines = [summary]
    if paper:
        lines += ["", *_wrapped(f"{paper.title}. {paper.authors}; {paper.place}.", 0)]
    return [*lines, "", *rest.splitlines()] if rest else lines
