"""Describe methods, networks, data sets, protocols and pairs as tables."""

from __future__ import annotations

import functools
import inspect
import itertools
import textwrap
from operator import itemgetter
from typing import Any, final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from kdbench.analysis.comparison import FAMILIES, position
from kdbench.data.datasets import DATASETS, SHAPES, ArrayDataset
from kdbench.data.place import FOLDERS, OWN_IMAGES
from kdbench.engine.phase import count_extra_parameters
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair, named_pairs
from kdbench.experiment.protocol import Protocol, load_protocol, protocol_names
from kdbench.experiment.registry import load_method, method_names, method_source
from kdbench.experiment.settings import resolve_settings
from kdbench.method import Method, Setup
from kdbench.models import NETWORKS, network_version, own_networks
from kdbench.models.build import build_net
from kdbench.net import Net

Rows = list[dict[str, Any]]

UNSUPPORTED = "unsupported"


def methods(pair: Pair | None, protocol: Protocol) -> tuple[Rows, list[str]]:
    """Describe methods by family and year, with remarks on those that are broken or do not support the pair.

    Parameters
    ----------
    pair
        If given, the parameters that each method trains beside the student are counted under ``protocol``.
    """
    setup = setup_of(pair, protocol) if pair else None
    sources = {name: method_source(name) for name in method_names()}
    rows: Rows = []
    remarks = []
    for name, source in sources.items():
        try:
            method_class = load_method(name)
        except UserError as error:
            remarks.append(f"broken: {error}")
            row: dict[str, Any] = {"family": "broken", "method": name}
        else:
            defaults = method_class.Config()
            row = {
                "family": method_class.FAMILY,
                "method": name,
                "year": str(method_class.PAPER.year) if method_class.PAPER else "",
                "the teacher gives": ", ".join(sorted(method_class.all_reads(defaults).teacher)) or "nothing",
                "views": method_class.views(defaults).num_views,
                "pre-training": pretraining_length(method_class),
            }
            if setup:
                number, remark = extra_parameters(name, protocol, setup)
                row |= {"extra parameters": number}
                remarks += [f"{number}, {name}: {remark}"] if remark else []
            row |= {"paper": paper_line(name)}
        if any(other.own for other in sources.values()):
            row |= {"from": source.origin if source.own else ""}
        rows.append(row)
    return _by_family(rows), remarks


def _by_family(rows: Rows) -> Rows:
    """Order methods of ascending names by family and year; the first of a family names it, below an empty row."""
    rows = sorted(rows, key=lambda row: (position(row["family"], FAMILIES), row["family"], row.get("year", "")))
    grouped: Rows = []
    for family, members in itertools.groupby(rows, key=itemgetter("family")):
        grouped += [{}] if grouped else []
        grouped += [row | {"family": family if number == 0 else ""} for number, row in enumerate(members)]
    return grouped


def pretraining_length(method_class: type[Method]) -> str:
    """Return the length of pre-training by default, in % of the protocol's epochs; empty if there is none."""
    fraction = method_class.pretraining(method_class.Config())
    return f"{100 * fraction:g} %" if fraction else ""


def setup_of(pair: Pair, protocol: Protocol) -> Setup:
    """Make what methods are built from, without loading the protocol's images."""
    teacher, student = (_net(name, protocol.name) for name in (pair.teacher.network, pair.student))
    labels = _placeholder(protocol).train_labels
    return Setup(
        student=student,
        teacher=teacher,
        labels=labels,
        epochs=protocol.epochs,
        steps_per_epoch=1,
        group_size=protocol.rules.schedule.images_together,
    )


@functools.cache
def _net(network: str, protocol: str) -> Net:
    resolved = load_protocol(protocol)
    return build_net(network, resolved, _placeholder(resolved), seed=0, purpose="list")


def _placeholder(protocol: Protocol) -> ArrayDataset:
    """Make a data set of the protocol's size, without its images."""
    shape = SHAPES[protocol.dataset]
    images = torch.zeros(1, dtype=torch.uint8).expand(shape.num_images, *shape.image_size, 3)
    labels = torch.arange(shape.num_images) % shape.num_classes
    return ArrayDataset(protocol.dataset, images, labels, images, labels, shape.num_classes)


@final
class _Undrawn(TorchFunctionMode):
    """Leave the usual weights of new layers undrawn, which takes no time and no memory where they are only counted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        return keywords["tensor"] if func is nn.init.kaiming_uniform_ else func(*args, **keywords)


def extra_parameters(name: str, protocol: Protocol, setup: Setup) -> tuple[str, str]:
    """Count the parameters that a method trains beside the student; else return what is wrong, and why."""
    teacher, student = setup.teacher.name, setup.student.name
    try:
        config = resolve_settings(name, dataset=protocol.dataset, teacher=teacher, student=student).config
        with _Undrawn():
            method = load_method(name)(config, setup)
            net = method.wrap(setup)
    except ValueError as error:
        return UNSUPPORTED, str(error)
    except Exception as error:
        return "fails", method_source(name).place_of(error)
    return f"{count_extra_parameters(setup.student, net, method):,}", ""


def why_unsupported(name: str, pair: Pair) -> str:
    """Return why a method does not support a pair; empty if it does."""
    protocol = load_protocol(next(members.protocol for members in named_pairs().values() if pair in members.pairs))
    number, reason = extra_parameters(name, protocol, setup_of(pair, protocol))
    return reason if number == UNSUPPORTED else ""


def networks() -> tuple[Rows, list[str]]:
    """Describe each network in a row, with remarks on those of the user's that are broken."""
    own = own_networks()
    rows: Rows = [{"network": name} for name in (*NETWORKS, "timm:NAME (any timm model with a linear classifier)")]
    remarks = []
    for name, source in own.items():
        version = "broken"
        try:
            version = str(network_version(name))
        except UserError as error:
            remarks.append(f"broken: {error}")
        rows.append({"network": name, "version": version, "from": source.where})
    if own:
        rows = [{"network": "", "version": "", "from": ""} | row for row in rows]
    return rows, remarks


def _loaded() -> tuple[list[Protocol], list[str]]:
    """Return all protocols that can be used, and a remark for each of the others."""
    loaded, remarks = list[Protocol](), list[str]()
    for name in protocol_names():
        try:
            loaded.append(load_protocol(name))
        except UserError as error:
            remarks.append(f"broken: {error}")
    return loaded, remarks


def datasets() -> tuple[Rows, list[str]]:
    """Describe each data set in a row; a remark names each protocol that cannot be used."""
    loaded, remarks = _loaded()
    used_by: dict[str, list[str]] = {}
    for protocol in loaded:
        used_by.setdefault(protocol.dataset, []).append(protocol.name)
    of_files = [protocol.name for protocol in loaded if protocol.rules.augmentation.crop == "resized"]
    other = f"none of its own: --dataset NAME, with all but {', '.join(of_files)}"
    own = f"{', '.join(used_by[OWN_IMAGES])}; also all others, with --data in place of a folder"
    rows = [
        *({"dataset": name, "protocols": ", ".join(used_by.get(name, [])) or other} for name in DATASETS),
        *({"dataset": f"{name}:DIR", "protocols": ", ".join(used_by[name])} for name in FOLDERS),
        *({"dataset": word, "protocols": own} for word in ("folder:DIR", "tar:DIR", "hfds:NAME")),
        {"dataset": "npz:FILE", "protocols": f"all but {', '.join(of_files)}, with --data in place of a folder"},
    ]
    return rows, remarks


def protocols() -> tuple[Rows, list[str]]:
    """Describe each protocol in a row; a remark names each that cannot be used."""
    loaded, remarks = _loaded()
    return [{"protocol": p.name, "data": p.dataset, "epochs": p.epochs, "title": p.title} for p in loaded], remarks


def pairs() -> tuple[Rows, list[str]]:
    """Describe each named pair in a row, with the published accuracies of both networks without distillation."""
    rows = [
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
    return rows, []


LISTS = {"networks": networks, "datasets": datasets, "protocols": protocols, "pairs": pairs}


def about(name: str) -> tuple[str, str]:
    """Return the first line of a method's module docstring, and the rest of it without the legend of its shapes."""
    text = inspect.getdoc(inspect.getmodule(load_method(name))) or name
    summary, _, rest = text.partition("\n\nLegend:")[0].partition("\n\n")
    return " ".join(summary.split()), rest.rstrip()


def paper_line(name: str) -> str:
    """Return the beginning of the title of a method's paper, and its venue; the first line of a file without one."""
    if paper := load_method(name).PAPER:
        return f"{textwrap.shorten(paper.title, 72, placeholder=' ...')} ({paper.venue or paper.place})"
    summary, _ = about(name)
    return (summary.partition(": ")[2] or summary).replace("``", "").rstrip(".")
