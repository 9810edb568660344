"""The word that says where data come from, read in one way by every command, grid and call from Python."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Self, final

from kdbench.data.arrays import Renumbering
from kdbench.data.datasets import EMBEDDED, dataset_name, load_dataset
from kdbench.data.decoding.decoded import decoded
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.data.files.listing import ImageFiles
from kdbench.data.files.names import Report
from kdbench.data.files.opening import Kind, image_word, open_image_files
from kdbench.data.images import Dataset
from kdbench.data.npz import LABELS, NPZ, npz_word
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.utils.names import squeeze
from kdbench.utils.text import one_line
from kdbench.utils.values import argument, text

DEFAULT_FOLDER: Final = Path("data")
"""Where data sets are kept if nothing else is said."""
OWN_IMAGES: Final = "folder"
"""What a protocol calls its data set where a user names the images."""
FOLDERS: Final = MappingProxyType({"imagenet": "imagenet", "tinyimagenet": "tiny-imagenet-200"})
"""Data sets of image files that are known by name, and what a folder of data sets calls their folders."""


MAX_WORKERS: Final = 512
"""Far beyond the CPUs of a node."""


def known_dataset(name: str) -> str:
    """Return the registered spelling of the name of a data set, of arrays or of image files.

    Raises
    ------
    UserError
        There is none; the message lists the known ones.
    """
    return next((each for each in FOLDERS if squeeze(each) == squeeze(name)), None) or dataset_name(name)


@final
@dataclass(frozen=True, slots=True)
class DataPlace:
    """A folder of data sets, or one data set that replaces the protocol's: an npz file, or image files."""

    path: str = str(DEFAULT_FOLDER)
    kind: Literal["npz"] | Kind | None = None
    """Of the one data set; None for a folder of data sets."""
    given: bool = False
    """Whether a user named it; what is given is read, or refused."""
    renumbering: Renumbering | None = None
    """Of the labels of an npz file."""

    @classmethod
    def parse(cls, word: str | Path | None) -> Self:
        """Read ``DIR``, ``npz:FILE``, ``npz:FILE,labels=RULE`` or ``KIND:DIR``.

        None is the default folder, which need not exist.

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
        if place := cls.of_dataset(typed):
            return place
        try:
            path = Path(typed).expanduser()
            is_file = path.is_file()
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"--data {typed!r} is no folder ({one_line(error)}): give DIR, npz:FILE or folder:DIR"
            ) from None
        if is_file:
            raise UserError(f"--data {typed} is a file, not a folder of data sets: type {shlex.quote(NPZ + typed)}")
        return cls(str(path), given=True)

    @classmethod
    def of_dataset(cls, word: str) -> Self | None:
        """Read ``npz:FILE``, ``npz:FILE,labels=RULE`` or ``KIND:DIR``; None for any other word.

        Raises
        ------
        UserError
            Nothing follows the kind.
        """
        if npz := npz_word(word):
            file, renumbering = npz
            return cls(file, "npz", given=True, renumbering=renumbering)
        if images := image_word(word):
            return cls(images[1], images[0], given=True)
        return None

    def choose(self, protocol: Protocol, name: str | None) -> Protocol:
        """Return the protocol with a data set that is known by name in place of its own; None is its own.

        Raises
        ------
        UserError
            There is no such data set, or this place is one already.
        """
        if name is None:
            return protocol
        with argument("--dataset"):
            text(name)
        if self.of_dataset(name):
            raise UserError(f"--dataset takes a name: type --data {shlex.quote(name)} in its place")
        if self.kind:
            raise UserError(f"--data {self.word} and --dataset {name} are two data sets: leave out one of them")
        return protocol.override(dataset=known_dataset(name))

    def open(
        self, protocol: Protocol, *, download: bool, num_workers: int | None = None, report: Report = lambda _: None
    ) -> Dataset:
        """Open the data set that a protocol is run on: the one that this names, or else the protocol's.

        Parameters
        ----------
        num_workers
            Processes that decode image files; as many as the job has CPUs if not given.
        report
            Takes lines on the progress of what takes long.

        Raises
        ------
        UserError
            It cannot be opened, or `check` refuses it.
        """
        self.check(protocol.dataset, download=download)
        files, rules = self.image_files(protocol.dataset, report), protocol.rules.augmentation
        if files is None:
            return self._sized(self.load(protocol.dataset, download=download), protocol)
        if rules.crop == "resized":
            return StreamedDataset(files, rules, num_workers, report)
        return self._sized(decoded(files, report), protocol)

    def image_files(self, name: str, report: Report = lambda _: None) -> ImageFiles | None:
        """List the image files that this names, or else those of a data set by its name; None for arrays.

        Raises
        ------
        UserError
            They are not there, or not as they must be.
        """
        if self.kind and self.kind != "npz":
            return open_image_files(self.kind, self.path, report)
        if self.kind is None and name in FOLDERS:
            path = str(Path(self.path) / FOLDERS[name])
            return open_image_files(name, path, report)  # type: ignore[arg-type]
        return None

    def _sized(self, dataset: Dataset, protocol: Protocol) -> Dataset:
        """Return images in memory as the protocol gives them to networks."""
        rules = protocol.rules.augmentation
        return dataset.with_side(rules.size) if rules.crop == "pad" and rules.size else dataset

    def load(self, name: str, *, download: bool) -> Dataset:
        """Load the data set of the npz file, or else the one of a name, which may be ``npz:FILE`` itself.

        Raises
        ------
        UserError
            It cannot be loaded, or `check` refuses it.
        """
        self.check(name, download=download)
        if self.kind == "npz":
            return load_dataset(self.word, Path())
        if self.given and not download and npz_word(name) is None and not Path(self.path).is_dir():
            raise UserError(
                f"there is no folder {Path(self.path).absolute()}: type --download to have {name} fetched into it, or "
                "--data DIR with a folder that has it"
            )
        return load_dataset(name, Path(self.path), download=download)

    def check(self, name: str, *, download: bool) -> None:
        """Raise UserError for options that a data set has no use for: none of them is dropped in silence."""
        if self.kind or npz_word(name):
            if download:
                word = "npz:FILE" if self.kind in {"npz", None} else f"{self.kind}:DIR"
                raise UserError(f"--download is of no use with {word}: it fetches a data set by its name; leave it out")
        elif name == OWN_IMAGES:
            raise UserError("this protocol is for images of your own: type --data folder:DIR")
        elif name in FOLDERS:
            if download:
                raise UserError(f"--download cannot fetch {name}: get it from its own site, and type --data {name}:DIR")
        elif dataset_name(name) in EMBEDDED and (self.given or download):
            option = f"--data {self.path}" if self.given else "--download"
            folder = Path(self.path)
            there = f" there is no folder {folder.absolute()}, and" if self.given and not folder.is_dir() else ""
            raise UserError(
                f"{option} is of no use:{there} {name} comes with kdbench; leave it out, or type --data npz:FILE for "
                "data of your own"
            )

    def rule(self, dataset: Dataset) -> str | None:
        """Return what the protocol's rule ``dataset`` becomes by the data set that this names; None if it stays.

        Data sets of image files that are known by name keep it; all others are named by what they hold.
        """
        if self.kind is None:
            return None
        return self.kind if self.kind in FOLDERS else f"{self.kind}:{dataset.fingerprint[:16]}"

    @property
    def word(self) -> str:
        """The word that `parse` reads as this place."""
        labels = f"{LABELS}{self.renumbering}" if self.renumbering else ""
        return f"{self.kind}:{self.path}{labels}" if self.kind else self.path

    def absolute(self, name: str) -> str | None:
        """Return the word for another process in another folder, which opens the data set of this name.

        What is not a path here stays as it is, such as one that begins with an environment variable.
        """
        if name in EMBEDDED and not self.given:
            return None
        if self.kind == "hfds" or (self.kind not in {"npz", None} and "$" in self.path):
            return self.word
        return replace(self, path=str(Path(self.path).expanduser().absolute())).word
