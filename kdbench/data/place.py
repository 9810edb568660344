"""The word that says where data come from, read in one way by every command, grid and call from Python."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self, final

from kdbench.data.datasets import EMBEDDED, dataset_name, load_dataset
from kdbench.data.images import Dataset
from kdbench.data.npz import NPZ, file_of
from kdbench.errors import UserError
from kdbench.utils.text import one_line
from kdbench.utils.values import argument, text

DEFAULT_FOLDER: Final = Path("data")
"""Where data sets are kept if nothing else is said."""


@final
@dataclass(frozen=True, slots=True)
class DataPlace:
    """A folder of data sets, or one npz file that replaces the protocol's data set."""

    path: Path = DEFAULT_FOLDER
    is_npz: bool = False
    given: bool = False
    """Whether a user named it; what is given is read, or refused."""

    @classmethod
    def parse(cls, word: str | Path | None) -> Self:
        """Read ``DIR`` or ``npz:FILE``; None is the default folder, which need not exist.

        Raises
        ------
        UserError
            It names nothing, or a file without ``npz:``.
        """
        if word is None:
            return cls()
        if isinstance(word, str) and not word.strip():
            raise UserError("--data is empty: give a folder of data sets, or npz:FILE")
        with argument("--data"):
            typed = str(word) if isinstance(word, Path) else text(word)
        if (file := file_of(typed)) is not None:
            return cls(Path(file), is_npz=True, given=True)
        try:
            path = Path(typed).expanduser()
            is_file = path.is_file()
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"--data {typed!r} is no folder ({one_line(error)}): give DIR or npz:FILE") from None
        if is_file:
            raise UserError(f"--data {typed} is a file, not a folder of data sets: type {shlex.quote(NPZ + typed)}")
        return cls(path, given=True)

    def load(self, name: str, *, download: bool) -> Dataset:
        """Load the data set of the file, or else the one of a name, which may be ``npz:FILE`` itself.

        Raises
        ------
        UserError
            It cannot be loaded, or `check` refuses it.
        """
        self.check(name, download=download)
        if self.is_npz:
            return load_dataset(self.word, Path())
        if self.given and not download and file_of(name) is None and not self.path.is_dir():
            raise UserError(
                f"there is no folder {self.path.absolute()}: type --download to have {name} fetched into it, or "
                "--data DIR with a folder that has it"
            )
        return load_dataset(name, self.path, download=download)

    def check(self, name: str, *, download: bool) -> None:
        """Raise UserError for options that a data set has no use for: none of them is dropped in silence."""
        if self.is_npz or file_of(name) is not None:
            if download:
                raise UserError(
                    "--download is of no use with npz:FILE: it fetches a data set by its name; leave it out"
                )
        elif dataset_name(name) in EMBEDDED and (self.given or download):
            option = f"--data {self.path}" if self.given else "--download"
            there = f" there is no folder {self.path.absolute()}, and" if self.given and not self.path.is_dir() else ""
            raise UserError(
                f"{option} is of no use:{there} {name} comes with kdbench; leave it out, or type --data npz:FILE for "
                "data of your own"
            )

    @property
    def word(self) -> str:
        """The word that `parse` reads as this place."""
        return f"{NPZ if self.is_npz else ''}{self.path}"

    def absolute(self, name: str) -> str | None:
        """Return the word for another process in another folder, which loads the data set of this name."""
        if name in EMBEDDED and not self.given:
            return None
        return replace(self, path=self.path.expanduser().absolute()).word
