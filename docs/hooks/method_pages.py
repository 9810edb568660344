"""The pages of the methods, made of what ``kdbench show`` prints, of published values and of what a method costs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from marking import code, escaped, link, paragraphs, prose, table

from kdbench.analysis.comparison import FAMILIES, position
from kdbench.analysis.published.values import Published, datasets, load_published
from kdbench.cli.catalogue import extra_parameters, setup_of
from kdbench.cli.method_page import MethodPage, Setting
from kdbench.experiment.pairs import Pair, named_pairs
from kdbench.experiment.protocol import load_protocol
from kdbench.experiment.settings import Recipe
from kdbench.method import Paper
from kdbench.teachers.demand import Wanted

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Extra:
    """What a method trains beside the student of a pair."""

    pair: str
    parameters: str


def extras(name: str) -> list[Extra]:
    """Count what a method trains beside the student, for the first pair of each named set."""
    first = [(members.pairs[0], load_protocol(members.protocol)) for members in named_pairs().values()]
    return [Extra(str(pair), extra_parameters(name, rules, setup_of(pair, rules))[0]) for pair, rules in first]


def title(page: MethodPage) -> str:
    """Return a method's name as its file prints it: ``CRD``."""
    return page.summary.partition(": ")[0].replace("`", "")


def by_family(pages: Iterable[MethodPage]) -> dict[str, list[MethodPage]]:
    """Return the methods of each family by year, under the family's heading."""
    groups: dict[str, list[MethodPage]] = {}
    for page in sorted(pages, key=_place):
        family = page.method_class.FAMILY
        groups.setdefault("No distillation" if family == "none" else family.capitalize(), []).append(page)
    return groups


def _place(page: MethodPage) -> tuple[int, int, str]:
    paper = page.method_class.PAPER
    return position(page.method_class.FAMILY, FAMILIES), paper.year if paper else 0, page.name


def index(families: Mapping[str, Sequence[MethodPage]]) -> str:
    """Return a table of the methods of each family."""
    parts = []
    for heading, members in families.items():
        rows = [
            (
                f"[{escaped(title(page))}]({page.name}.md)<br>{code(page.name)}",
                str(page.method_class.PAPER.year) if page.method_class.PAPER else NOTHING,
                prose(_one_sentence(page)),
                _parts(page.reads.teacher),
                str(page.views.num_views),
            )
            for page in members
        ]
        heads = ("method", "year", "idea", "reads of the teacher", "views")
        parts.append(f"## {heading}\n\n{table(heads, rows)}")
    return "\n\n".join(parts)


def _one_sentence(page: MethodPage) -> str:
    text = page.summary.partition(": ")[2] or page.summary
    return text[:1].upper() + text[1:]


def markdown(page: MethodPage, extra: Sequence[Extra]) -> str:
    """Return the page of a method."""
    parts = [f"# {escaped(title(page))}", _paper(page.method_class.PAPER), prose(_one_sentence(page))]
    if page.idea:
        parts.append(paragraphs(page.idea))
    parts += [_try(page), "## What it reads and costs", _cost(page, extra)]
    if page.settings:
        parts += ["## Settings", *_settings(page.settings), "## Published settings", *_recipes(page)]
    if page.method_class.DEVIATIONS:
        parts += [
            "## Where paper and code differ",
            "\n".join(f"- {prose(text)}" for text in page.method_class.DEVIATIONS),
        ]
    parts += _published(page.name)
    return "\n\n".join(filter(None, parts)) + "\n"


def _paper(paper: Paper | None) -> str:
    if paper is None:
        return ""
    arxiv = f", {link(f'arXiv {paper.arxiv}', f'https://arxiv.org/abs/{paper.arxiv}')}" if paper.arxiv else ""
    place = escaped(f"{paper.venue} {paper.year}".strip())
    return f"**{escaped(paper.title)}**<br>\n{escaped(paper.authors)}; {place}{arxiv}"


def _try(page: MethodPage) -> str:
    pair = next(iter(named_pairs().values()))
    teacher = f" --teacher {pair.pairs[0].teacher}" if page.reads.teacher else ""
    rules = f"--protocol {pair.protocol}{teacher} --student {pair.pairs[0].student}"
    return f"```\nkdbench train {rules} \\\n  --method {page.name} --seed 1 --data data\n```"


def _parts(parts: Iterable[str]) -> str:
    return ", ".join(map(code, sorted(parts))) or "nothing"


def _cost(page: MethodPage, extra: Sequence[Extra]) -> str:
    views, reads = page.views, page.reads.teacher
    strong = f", {views.num_strong} of them strongly augmented" if views.num_strong else ""
    if not reads:
        passes = "none: it has no teacher"
    elif Wanted(seed=1, plan=views, parts=reads, epochs=range(1)).cacheable:
        passes = "none with a [cache](../reference/caches.md); 1 for each view without one"
    else:
        passes = "1 for each view: what it reads is not kept in a cache"
    rows = [
        ("Family", escaped(page.method_class.FAMILY)),
        ("Reads of the teacher", _parts(reads)),
        ("Reads of the student", _parts(page.reads.student)),
        ("Views of each image", f"{views.num_views}{strong}"),
        ("Teacher's forward passes", passes),
        ("Pre-training", escaped(f"{page.pretraining} of the protocol's epochs" if page.pretraining else "none")),
        ("Trained beside the student", "<br>".join(f"{code(each.pair)}: {escaped(each.parameters)}" for each in extra)),
        ("Logit terms", escaped(page.logit_weight or "not said")),
        ("Version", str(page.method_class.VERSION)),
    ]
    return table(("", "with the default settings"), rows)


def _settings(settings: Sequence[Setting]) -> list[str]:
    """Return a table of settings, without columns in which nothing stands."""
    columns = {
        "setting": [code(each.name) for each in settings],
        "default": [code(_value(each.default)) for each in settings],
        "may be": [escaped(each.bounds) for each in settings],
        "a search tries": [escaped(each.search) for each in settings],
        "what it is": [
            prose(each.text) + (f" *Our choice:* {prose(each.ours)}" if each.ours else "") for each in settings
        ],
    }
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    return [
        "Choose another value with `--set NAME=VALUE`, or in a grid's file.",
        table(list(kept), list(zip(*kept.values(), strict=True))),
    ]


def _value(value: Any) -> str:
    """Write a value as ``--set`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _recipes(page: MethodPage) -> list[str]:
    parts = []
    if page.recipes:
        heads = ("data", "settings", "pairs", "source")
        parts.append(table(heads, [_recipe(recipe) for recipe in page.recipes]))
    if page.unpublished:
        pairs = ", ".join(code(str(pair)) for pair in page.unpublished)
        parts.append(f"No source publishes settings for these pairs, and the defaults are our choice: {pairs}.")
    if page.unsupported:
        parts.append("Pairs that the method does not support:")
        parts.append("\n".join(f"- {code(str(pair))}: {escaped(reason)}" for pair, reason in page.unsupported.items()))
    return parts


def _recipe(recipe: Recipe) -> tuple[str, ...]:
    values = "<br>".join(code(f"{name} = {_value(value)}") for name, value in recipe.settings.items())
    pairs = "<br>".join(map(code, recipe.pairs))
    return escaped(recipe.dataset), values or "the defaults", pairs, escaped(recipe.source)


@functools.cache
def _values(dataset: str) -> Published:
    return load_published(dataset)


def _published(name: str) -> list[str]:
    """Return the published accuracies of a method, data set by data set."""
    parts, keys = list[str](), set[str]()
    for dataset in datasets():
        values = _values(dataset)
        rows = values.frame[values.frame["kdbench"] == name]
        if not rows.empty:
            parts += [f"### {escaped(dataset)}", _published_table(rows)]
            keys |= set(rows["source"])
    if not parts:
        return []
    sources = [(key, source) for key, source in _values(datasets()[0]).sources.items() if key in keys]
    intro = (
        "Top-1 in %, as the sources below print them. "
        "`kdbench claims` shows them beside your results; they are never ranked or tested with these."
    )
    named = "\n".join(f"- {code(key)}: {link(source.title, source.url)}" for key, source in sources)
    return ["## Published values", intro, *parts, "### Sources", named]


def _published_table(frame: pd.DataFrame) -> str:
    rows = []
    for row in frame.to_dict("records"):
        spread = "" if pd.isna(row["std"]) else f"&nbsp;±&nbsp;{row['std']:.2f}"
        top5 = "" if pd.isna(row["top5"]) else f" (top-5 {row['top5']:.2f})"
        notes = escaped("; ".join(text for text in (row["contested"], row["note"], row["network_note"]) if text))
        compared = code(row["protocol"]) if row["protocol"] else escaped(f"none: {row['differs']}")
        rows.append(
            (
                code(str(Pair.parse(row["pair"]))),
                f"{row['top1']:.2f}{spread}{top5}",
                NOTHING if pd.isna(row["n"]) else str(row["n"]),
                f"{row['teacher_top1']:.2f}",
                f"{row['student_top1']:.2f}",
                code(row["source"]),
                f"{compared}; {notes}" if notes else compared,
            )
        )
    heads = ("pair", "top-1", "runs", "teacher", "student", "source", "comparable with")
    return table(heads, rows)
