"""The page of a method: its paper, idea, settings with their sources, and where paper and code differ."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass
from typing import Any, final

from kdbench.cli.catalogue import about, pretraining_length, why_unsupported
from kdbench.config import Config, bounds_of, deciding, field_docs, space_of
from kdbench.experiment.logit_weights import UNIT, range_text, read_logit_weight
from kdbench.experiment.pairs import Pair, usual_pairs
from kdbench.experiment.registry import load_method, method_name, method_source
from kdbench.experiment.settings import Recipe, load_recipes
from kdbench.method import Method, Reads, ViewPlan


@final
@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a method; a text is empty where there is nothing to say."""

    name: str
    default: Any
    text: str
    """Docstring of the field."""
    bounds: str
    ours: str
    """Why the default is what it is, where no source states one."""
    search: str
    """What a search tries."""


@final
@dataclass(frozen=True, slots=True)
class MethodPage:
    """What there is to say of a method with its default settings."""

    name: str
    method_class: type[Method]
    summary: str
    idea: str
    """The module's docstring below its first line, without the legend of its shapes."""
    reads: Reads
    views: ViewPlan
    pretraining: str
    """Length in % of the protocol's epochs; empty for none."""
    logit_weight: str
    """Total weight of the logit terms; empty where the method's file does not say it."""
    settings: tuple[Setting, ...]
    recipes: tuple[Recipe, ...]
    unpublished: tuple[Pair, ...]
    """Usual pairs without published settings, of a method that has settings."""
    unsupported: dict[Pair, str]
    """Usual pairs that the method does not support, with the reasons."""

    @classmethod
    def of(cls, name: str) -> MethodPage:
        """Describe a method, whose name may have any spelling."""
        name = method_name(name)
        method_class = load_method(name)
        defaults, docs = method_class.Config(), field_docs(method_class.Config)
        bounds, space = bounds_of(method_class.Config), space_of(method_class.Config)
        settings = tuple(
            Setting(
                name=field.name,
                default=field.default,
                text=docs[field.name],
                bounds=str(bounds.get(field.name, "")),
                ours=method_class.OURS.get(field.name, ""),
                search=str(space.get(field.name, "")),
            )
            for field in dataclasses.fields(method_class.Config)
        )
        recipes = tuple(load_recipes(name))
        published = {Pair.parse(pair) for recipe in recipes for pair in recipe.pairs}
        rest = [pair for pair in usual_pairs() if pair not in published] if settings else []
        unsupported = {pair: reason for pair in rest if (reason := why_unsupported(name, pair))}
        summary, idea = about(name)
        return cls(
            name=name,
            method_class=method_class,
            summary=summary,
            idea=idea,
            reads=method_class.all_reads(defaults),
            views=method_class.views(defaults),
            pretraining=pretraining_length(method_class),
            logit_weight=_logit_weight(name, defaults),
            settings=settings,
            recipes=recipes,
            unpublished=tuple(pair for pair in rest if pair not in unsupported),
            unsupported=unsupported,
        )


def method_page(name: str) -> str:
    """Describe a method as text for a terminal."""
    page = MethodPage.of(name)
    strong = f", {page.views.num_strong} strongly augmented" if page.views.num_strong else ""
    lines = [
        *_head(page),
        "",
        f"Reads of the teacher: {', '.join(sorted(page.reads.teacher)) or 'nothing'}",
        f"Views of each image: {page.views.num_views}{strong}",
    ]
    if page.pretraining:
        lines += [f"Pre-training: {page.pretraining} of the protocol's epochs, before the first epoch"]
    if page.logit_weight:
        lines += _wrapped(f"Logit terms: {page.logit_weight}", 0)
    lines += [f"Version: {page.method_class.VERSION}"]
    if (source := method_source(page.name)).own:
        lines += [f"From: {source.where}", f"Records say: {source.text}"]
    if page.settings:
        lines += ["", "Settings", *_settings(page), "", "Published settings by pair"]
    for recipe in page.recipes:
        values = ", ".join(f"{k} = {v!r}" for k, v in recipe.settings.items()) or "the defaults"
        lines += _wrapped(f"{recipe.dataset}: {values}", 2)
        lines += [*_wrapped(f"for {', '.join(recipe.pairs)}", 6), *_wrapped(f"source: {recipe.source}", 6)]
    if page.unpublished:
        lines += _wrapped("none published: using the defaults is our choice", 2)
        lines += _wrapped(f"for {', '.join(map(str, page.unpublished))}", 6)
    for pair, reason in page.unsupported.items():
        lines += _wrapped(f"unsupported: {pair}: {reason}", 2)
    if deviations := page.method_class.DEVIATIONS:
        lines += ["", "Where paper and code differ, and what is done here"]
        lines += [line for text in deviations for line in _wrapped(f"- {text}", 2)]
    return "\n".join(lines)


def _head(page: MethodPage) -> list[str]:
    """Return the name, paper and idea of a method."""
    lines = [page.summary.replace("``", "")]
    if paper := page.method_class.PAPER:
        lines += ["", *_wrapped(f"{paper.title}. {paper.authors}; {paper.place}.", 0)]
    return [*lines, "", *page.idea.replace("``", "").splitlines()] if page.idea else lines


def _settings(page: MethodPage) -> list[str]:
    lines = list[str]()
    for setting in page.settings:
        lines += _wrapped(f"{setting.name} = {setting.default!r}: {setting.text}", 2)
        if setting.ours:
            lines += _wrapped(f"our choice: {setting.ours}", 6)
        if setting.search:
            lines += _wrapped(f"a search tries {setting.search}", 6)
    return lines


def _logit_weight(name: str, defaults: Config) -> str:
    """Say the weight of the logit terms; nothing where the method's file does not say it."""
    weight = read_logit_weight(method_source(name).recipe_file)
    if weight is None:
        return ""
    total = weight.total(deciding(defaults))
    default = range_text(total) if total else "unknown, as one is no number among the settings"
    value = f", by default {default}" if weight.factors else ""
    note = f"; {weight.note}" if weight.note else ""
    return f"total weight {weight.formula}{value}, in units of {UNIT}{note}"


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 110, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))
