"""Pages of reports, and what is in them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from kdbench.analysis.records import read_records
from kdbench.analysis.report import write_report
from kdbench.analysis.splitting import split


class Page(HTMLParser):
    """Tags with their attributes, ids, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.text = text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.lasttag == "script":
            self.scripts.append(data)

    def shape(self) -> list[tuple[str, list[str]]]:
        """Tags with the names of their attributes; what plots are made of depends on the length of texts."""
        drawn = {"svg", "title", "desc", "g", "text", "path", "use", "defs", "clippath", "rect"}
        return [(tag, sorted(own)) for tag, own in self.tags if tag not in drawn]

    @property
    def data(self) -> dict[str, Any]:
        """What the script reads."""
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def report(runs: Path, out: Path) -> Page:
    read = read_records(runs)
    paths = write_report(runs, out, split(read), read)
    assert paths[0] == out / "index.html"
    assert all(path.exists() for path in paths)
    return Page(paths[0].read_text(encoding="utf-8"))
