"""Describe one method as text: its paper, idea, and settings with their sources."""

from __future__ import annotations

import dataclasses
import textwrap

from kdbench.cli.catalogue import about, pretraining_length, why_unsupported
from kdbench.config import Config, deciding, field_docs, space_of
from kdbench.experiment.logit_weights import UNIT, range_text, read_logit_weight
from kdbench.experiment.pairs import Pair, usual_pairs
from kdbench.experiment.registry import load_method, method_name, method_source
from kdbench.experiment.settings import load_recipes


def method_page(name: str) -> str:
    """Describe a method: its paper, idea, settings with their sources, and where paper and code differ."""
    name = method_name(name)
    method_class = load_method(name)
    defaults, docs = method_class.Config(), field_docs(method_class.Config)
    fields, recipes = dataclasses.fields(method_class.Config), load_recipes(name)
    space = space_of(method_class.Config)
    lines = [
        *_head(name),
        "",
        f"Reads of the teacher: {', '.join(sorted(method_class.all_reads(defaults).teacher)) or 'nothing'}",
    ]
    views = method_class.views(defaults)
    strong = f", {views.num_strong} strongly augmented" if views.num_strong else ""
    lines += [f"Views of each image: {views.num_views}{strong}"]
    if length := pretraining_length(method_class):
        lines += [f"Pre-training: {length} of the protocol's epochs, before the first epoch"]
    lines += [*_logit_weight(name, defaults), f"Version: {method_class.VERSION}"]
    if method_source(name).own:
        lines += [f"From: {method_source(name).where}", f"Records say: {method_source(name).text}"]
    if fields:
        lines += ["", "Settings"]
    for field in fields:
        lines += _wrapped(f"{field.name} = {field.default!r}: {docs[field.name]}", 2)
        if field.name in method_class.OURS:
            lines += _wrapped(f"our choice: {method_class.OURS[field.name]}", 6)
        if field.name in space:
            lines += _wrapped(f"a search tries {space[field.name]}", 6)
    published = {Pair.parse(pair) for recipe in recipes for pair in recipe.pairs}
    rest = [pair for pair in usual_pairs() if pair not in published] if fields else []
    if fields:
        lines += ["", "Published settings by pair"]
    for recipe in recipes:
        values = ", ".join(f"{k} = {v!r}" for k, v in recipe.settings.items()) or "the defaults"
        lines += _wrapped(f"{recipe.dataset}: {values}", 2)
        lines += [*_wrapped(f"for {', '.join(recipe.pairs)}", 6), *_wrapped(f"source: {recipe.source}", 6)]
    unsupported = {pair: reason for pair in rest if (reason := why_unsupported(name, pair))}
    if ours := [pair for pair in rest if pair not in unsupported]:
        lines += _wrapped("none published: using the defaults is our choice", 2)
        lines += _wrapped(f"for {', '.join(map(str, ours))}", 6)
    for pair, reason in unsupported.items():
        lines += _wrapped(f"unsupported: {pair}: {reason}", 2)
    if method_class.DEVIATIONS:
        lines += ["", "Where paper and code differ, and what is done here"]
        lines += [line for text in method_class.DEVIATIONS for line in _wrapped(f"- {text}", 2)]
    return "\n".join(lines)


def _logit_weight(name: str, defaults: Config) -> list[str]:
    """Return the line on the weight of the logit terms; none where the method's file does not say it."""
    weight = read_logit_weight(method_source(name).recipe_file)
    if weight is None:
        return []
    total = weight.total(deciding(defaults))
    default = range_text(total) if total else "unknown, as one is no number among the settings"
    value = f", by default {default}" if weight.factors else ""
    note = f"; {weight.note}" if weight.note else ""
    return _wrapped(f"Logit terms: total weight {weight.formula}{value}, in units of {UNIT}{note}", 0)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 110, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))


def _head(name: str) -> list[str]:
    """Return the name, paper and idea of a method."""
    (summary, rest), paper = about(name), load_method(name).PAPER
    lines = [summary]
    if paper:
        lines += ["", *_wrapped(f"{paper.title}. {paper.authors}; {paper.place}.", 0)]
    return [*lines, "", *rest.splitlines()] if rest else lines
