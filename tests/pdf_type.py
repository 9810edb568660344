"""The sizes of type in a PDF that pdflatex wrote without compression."""

from __future__ import annotations

import re

UNCOMPRESSED = r"\pdfcompresslevel=0\pdfobjcompresslevel=0"
_STREAM = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)
_OPERATOR = re.compile(rb"^(q|Q)$|([\d.]+) [-\d.]+ [-\d.]+ [-\d.]+ [-\d.]+ [-\d.]+ cm$|/F\d+ ([\d.]+) Tf|\]TJ", re.M)


def type_sizes(pdf: bytes) -> set[float]:
    """Return the sizes of all text in TeX's points: those of fonts, times the scales of boxes around them."""
    sizes = set()
    for stream in (each for each in _STREAM.findall(pdf) if b" Tf" in each):
        scale, size, outer = 1.0, 0.0, list[float]()
        for stack, factor, font in _OPERATOR.findall(stream):
            if stack == b"q":
                outer.append(scale)
            elif stack == b"Q":
                scale = outer.pop()
            elif factor:
                scale *= float(factor)
            elif font:
                size = float(font)
            else:
                sizes.add(round(scale * size * 72.27 / 72, 2))
    return sizes
