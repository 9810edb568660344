"""What mkdocs calls: pages of methods and commands are made of the code, so that none is forgotten or out of date."""

from __future__ import annotations

import functools
import itertools
import logging
from pathlib import Path
from typing import Any

import command_pages
import method_pages
import public_names
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from kdbench.cli.method_page import MethodPage
from kdbench.experiment.registry import method_names

_LOG = logging.getLogger("mkdocs.hooks")
"""A warning fails a strict build."""
_CHECKOUT = Path(__file__).parents[2]
_PLOTS = sorted((_CHECKOUT / "results" / "cifar10-subset" / "plots").glob("*.svg"))


@functools.cache
def _families() -> dict[str, list[MethodPage]]:
    return method_pages.by_family(MethodPage.of(name) for name in method_names())


def on_config(config: MkDocsConfig) -> None:
    """Put the generated pages below the headings that mkdocs.yml has for them."""
    for heading, members in _families().items():
        entries = [{method_pages.title(page): f"methods/{page.name}.md"} for page in members]
        _section(config, "Methods").append({heading: entries})
    _section(config, "Commands").extend({name: f"commands/{name}.md"} for name in command_pages.commands())


def _section(config: MkDocsConfig, heading: str) -> list[Any]:
    return next(entry[heading] for entry in config.nav or [] if heading in entry)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the generated pages."""
    pages = {f"commands/{name}.md": command_pages.markdown(name) for name in command_pages.commands()}
    for page in itertools.chain(*_families().values()):
        pages[f"methods/{page.name}.md"] = method_pages.markdown(page, method_pages.extras(page.name))
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    for plot in _PLOTS:
        files.append(File.generated(config, f"assets/gallery/{plot.name}", abs_src_path=str(plot)))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the tables of methods and commands where their pages say so, and look for public names without a text."""
    if names := public_names.shown(markdown):
        for name in public_names.undocumented(names, _CHECKOUT):
            _LOG.warning("%s has no docstring, and %s shows it", name, page.file.src_uri)
    for place, make in _TABLES.items():
        if place in markdown:
            markdown = markdown.replace(place, make())
    return markdown


def _plots() -> str:
    """Return the plots of the gallery, each with its title."""
    pictures = [f"<figure markdown>\n![{plot.stem}](assets/gallery/{plot.name})\n</figure>" for plot in _PLOTS]
    return "\n\n".join(['<div class="kd-pictures" markdown>', *pictures, "</div>"])


_TABLES = {
    "<!-- methods -->": lambda: method_pages.index(_families()),
    "<!-- commands -->": command_pages.index,
    "<!-- plots -->": _plots,
}
"""What stands in place of a comment of a page."""
