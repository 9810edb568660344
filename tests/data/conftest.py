"""Fixtures of tests of data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loader_items import CONTENTS, RULES, Loading
from photos import Files

from kdbench.data.decoding.decode import Decoder
from kdbench.data.decoding.loader import ImageLoader


@pytest.fixture
def loading() -> Iterator[Loading]:
    """Make loaders that are closed at the end."""
    loaders: list[ImageLoader] = []

    def make(num_workers: int, files: Files | None = None) -> ImageLoader:
        loaders.append(ImageLoader(Decoder(files or Files(CONTENTS), RULES), num_workers))
        return loaders[-1]

    yield make
    for opened in loaders:
        opened.close()
