"""Tables of finished cells: one object, several renderings."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from tabulate import tabulate

from kdbench.errors import UserError

Format = Literal["terminal", "markdown", "csv"]
_GROUP = ["protocol", "protocol_version", "overrides_text", "dataset", "precision", "student"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one comparison with what a reader must know to trust them."""

    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...]


def comparisons(records: pd.DataFrame) -> list[Table]:
    """One table of records, a row each, for each protocol, data set, teacher and student.

    A student trained alone stands in the table of every teacher it has. Cells under different rules are never mixed.
    """
    if records.empty:
        return []
    frame = records.copy()
    for column in ("teacher.network", "teacher.id", "teacher.accuracy", "agreement", "teacher_kl"):
        if column not in frame:
            frame[column] = None
    # Nested values are spread over dotted columns; as text they can be grouped by.
    frame["overrides_text"] = _gather(frame, "overrides.")
    frame["chosen_text"] = _gather(frame, "settings_chosen.")
    tables = []
    for key, group in frame.groupby(_GROUP, sort=True):
        rules = dict(zip(_GROUP, key, strict=True))
        alone = group[group["teacher.id"].isna()]
        taught = group[group["teacher.id"].notna()]
        for _, cells in taught.groupby("teacher.id", sort=True):
            tables.append(_comparison(rules, pd.concat([alone, cells])))
        if taught.empty:
            tables.append(_comparison(rules, alone))
    return tables


def _comparison(rules: dict[Any, Any], cells: pd.DataFrame) -> Table:
    repeated = cells[cells.duplicated("cell", keep=False)]
    if not repeated.empty:
        raise UserError(f"two records of one cell {repeated['cell'].iloc[0][:8]}: move one of them away")
    taught = cells[cells["teacher.id"].notna()]
    alone = cells[cells["teacher.id"].isna()].set_index("seed")["top1"]
    rows: list[dict[str, Any]] = []
    for (method, chosen), own in cells.groupby(["method", "chosen_text"], sort=False):
        per_seed = own.set_index("seed")["top1"]
        gain = (per_seed - alone).dropna() if own["teacher.id"].notna().all() else pd.Series(dtype=float)
        rows.append(
            {
                "method": f"{method} {chosen}".strip(),
                "top-1 %": _mean_sd(per_seed),
                "n": len(own),
                "gain": _mean_sd(gain, sign=True),
                "NLL": f"{own['nll'].mean():.3f}",
                "ECE %": f"{own['ece'].mean():.2f}",
                "agree %": _mean(own["agreement"], ".2f"),
                "KL": _mean(own["teacher_kl"], ".3f"),
                "views": f"{own['cost.views_per_image'].mean():.0f}",
                "s/epoch": f"{(own['cost.train_seconds'] / own['epochs']).mean():.2f}",
                "order": (own["teacher.id"].notna().any(), per_seed.mean()),
            }
        )
    rows.sort(key=lambda row: row["order"])
    frame = pd.DataFrame(rows).drop(columns="order")
    pair = f"{rules['student']} alone"
    if not taught.empty:
        first = taught.iloc[0]
        short = first["teacher.id"].partition(":")[2][:8]
        pair = f"{first['teacher.network']} ({first['teacher.accuracy']:.2f} %, {short}) > {rules['student']}"
    overrides = f", with {rules['overrides_text']}" if rules["overrides_text"] else ""
    epochs = int(cells["epochs"].iloc[0])
    return Table(
        f"{rules['protocol']}{overrides}: {pair}",
        frame,
        (
            f"top-1 on the test set after the last of {epochs} epochs; mean ± standard deviation (ddof 1) over n seeds",
            "gain: over the same student trained alone, paired by seed",
            "agree: predictions equal to the teacher's; KL: from the teacher, in nats; views: of each image in a step",
        ),
    )


def render(table: Table, form: Format) -> str:
    """Write a table as text."""
    if form == "csv":
        buffer = io.StringIO()
        buffer.writelines(f"# {line}\n" for line in (table.title, *table.notes))
        table.frame.to_csv(buffer, index=False)
        return buffer.getvalue()
    style = "pipe" if form == "markdown" else "simple"
    align = ["left", *["right"] * (table.frame.shape[1] - 1)]
    body = tabulate(
        table.frame.values.tolist(),
        headers=list(table.frame.columns),
        tablefmt=style,
        colalign=align,
        disable_numparse=True,
    )
    title = f"**{table.title}**" if form == "markdown" else table.title
    return "\n".join([title, "", body, "", *_lines(table.notes, form)]) + "\n"


def _lines(notes: Iterable[str], form: Format) -> list[str]:
    return [f"- {note}" for note in notes] if form == "markdown" else list(notes)


def _gather(frame: pd.DataFrame, prefix: str) -> pd.Series[str]:
    """Each row's values below a dotted prefix as ``name=value`` text."""
    columns = [c for c in frame.columns if c.startswith(prefix)]

    def text(row: pd.Series[Any]) -> str:
        present = {c.removeprefix(prefix): row[c] for c in columns if _is_there(row[c])}
        return " ".join(f"{k}={json.dumps(v) if isinstance(v, list) else v}" for k, v in present.items())

    return frame.apply(text, axis=1) if columns else pd.Series("", index=frame.index)


def _is_there(value: Any) -> bool:
    return isinstance(value, list | dict) or not pd.isna(value)


def _mean(values: pd.Series[Any], form: str) -> str:
    return format(values.mean(), form) if values.notna().any() else "--"


def _mean_sd(values: pd.Series[Any], *, sign: bool = False) -> str:
    if values.empty:
        return "--"
    mean = f"{values.mean():+.2f}" if sign else f"{values.mean():.2f}"
    return f"{mean} ± {values.std(ddof=1):.2f}" if len(values) > 1 else mean
