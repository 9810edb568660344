"""Style and write plots: colours, inline SVG for the page, SVG and PDF files for a paper.

Text, rules and background are drawn in colours that nothing else has. The page replaces them by the colours of its
light or dark theme; in files they stay near black, grey and white. Equal figures give equal bytes.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from kdbench.analysis.comparison import Comparison, Row
from kdbench.utils.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, RULE, PAPER = "#010203", "#d0d1d2", "#fefefd"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of Okabe and Ito (2008), which colour-blind readers can distinguish; black is the student-only baseline."""
CLASS_COLOURS = ("#332288", "#cc6677", "#117733", "#88ccee", "#ddcc77", "#aa4499", "#44aa99", "#882255", "#999933")
"""The muted scheme of Tol (2021) where six colours are too few; colour-blind readers can distinguish them, too."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
_MAX_LABEL = 40
"""Largest number of characters of a label."""
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 11.0,
    "axes.titlesize": 11.0,
    "axes.labelsize": 11.0,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "legend.fontsize": 10.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "path.simplify": True,
}
_FONTS = "'DejaVu Sans', Verdana, Arial, Helvetica, sans-serif"


@dataclass(frozen=True, slots=True)
class Look:
    """Colour, marker and line of a method, the same in all plots of a comparison."""

    colour: str
    marker: str
    line: Any


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure with its texts, before it is written."""

    name: str
    """Name of its files."""
    title: str
    description: str
    """What the plot shows, in words."""
    figure: Figure


@dataclass(frozen=True, slots=True)
class DrawnPlot:
    """A plot as inline SVG, SVG file and PDF file."""

    name: str
    title: str
    inline: Markup
    svg: str
    pdf: bytes


def look_of(number: int) -> Look:
    """Choose colour, marker and line by a number from 0; a repeated colour has another line and marker."""
    return Look(
        COLOURS[number % len(COLOURS)],
        _MARKERS[number % len(_MARKERS)],
        _LINES[(number // len(COLOURS)) % len(_LINES)],
    )


def looks(comparison: Comparison) -> dict[Row, Look]:
    """Choose colour, marker and line of each method."""
    methods = [row for row in comparison.rows if row != comparison.student_only]
    styles = {row: look_of(number) for number, row in enumerate(methods)}
    return {row: styles.get(row, Look(INK, "*", (0, (3, 1.5)))) for row in comparison.rows}


def label(text: str) -> str:
    """Make a label of a user's text: printable, and not too long."""
    text = printable(text)
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 1]}…"


def narrow_label(text: str) -> str:
    """Make a label above one of three panels side by side: its words in lines that do not reach the next panel."""
    return textwrap.fill(label(text), 22, break_long_words=False, break_on_hyphens=False)


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style of the report to figures that are made or written inside, whatever the user's style is."""
    import matplotlib as mpl  # noqa: PLC0415

    with mpl.rc_context(), warnings.catch_warnings():
        # A letter that the font lacks is an empty box in a PDF; the page and the SVG have the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def draw(plot: Plot) -> DrawnPlot:
    """Write a plot as inline SVG, SVG file and PDF file; call inside :func:`styled`."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = plot.name
    plot.figure.draw_without_rendering()
    plot.figure.set_layout_engine("none")  # laid out once, for both files
    vector, document = io.StringIO(), io.BytesIO()
    plot.figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plot.figure.savefig(document, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    svg = vector.getvalue()
    return DrawnPlot(plot.name, plot.title, _inline(plot, svg), _file(plot, svg), document.getvalue())


def _file(plot: Plot, svg: str) -> str:
    title, description = escape(printable(plot.title)), escape(printable(plot.description))
    elements = f"<title>{title}</title>\n <desc>{description}</desc>\n "
    svg = svg.replace("'DejaVu Sans'", _FONTS).replace('"DejaVu Sans"', _FONTS)
    return re.sub(r"(<svg [^>]*>\s*)", lambda match: match.group(1) + elements, svg, count=1)


def _inline(plot: Plot, svg: str) -> Markup:
    """Adapt the SVG to the page: unique ids, colours of the theme, font of the page, title and description."""
    start = svg.index("<svg ")
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box
    width = box.group(1).split()[2]
    body = svg[svg.index(">", start) + 1 :]
    # Its style sheet would apply to the whole page; the page has the same rule for plots only.
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    referenced = set(re.findall(r"(?:url\(#|xlink:href=\"#)([^\")]+)", body))
    prefix = f"plot-{plot.name}-"
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in referenced else "", body)
    body = re.sub(r"(url\(#|xlink:href=\"#)", rf"\g<1>{prefix}", body)
    body = re.sub(r"font: (?:[a-z0-9]+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = body.replace(INK, "currentColor").replace(RULE, "var(--rule)").replace(PAPER, "none")
    for number, colour in enumerate(COLOURS):
        body = body.replace(colour, f"var(--method-{number}, {colour})")
    for number, colour in enumerate(CLASS_COLOURS):
        body = body.replace(colour, f"var(--class-{number}, {colour})")
    body = re.sub(r"<defs>\s*</defs>|<g>\s*</g>", "", body)
    return Markup(
        '<svg class="plot" viewBox="{}" style="max-width: {}px" role="img" aria-labelledby="{}">'
        '<title id="{}">{}</title><desc id="{}">{}</desc>'
    ).format(
        box.group(1),
        round(float(width) * 1.5),
        f"{prefix}title {prefix}desc",
        f"{prefix}title",
        plot.title,
        f"{prefix}desc",
        plot.description,
    ) + Markup(body)  # noqa: S704
