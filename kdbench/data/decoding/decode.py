"""Image files to pixels: one decode of a file serves every view of it, in training and in evaluation.

Pillow decodes; pixels are those that torchvision's transforms give on its images. As torchvision's and timm's readers
do, every mode becomes RGB by Pillow's conversion (alpha is dropped, not blended), the first frame is taken, and the
orientation in EXIF is ignored. Grey images of 16 bits keep their upper 8, as Pillow does itself with colour of 16 bits;
pixels of 32 bits have no known range and are refused.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Iterator
from typing import Final, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from kdbench.data.decoding.crops import Crop, CropRules, central_box, evaluation_sides, plain_crop, strong_crop
from kdbench.data.randaugment import strongly_augmented
from kdbench.errors import UserError
from kdbench.utils.streams import generator
from kdbench.utils.text import one_line

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""What is read, told by a file's first bytes; others of Pillow's run programs, or are no pixels."""
MAX_PIXELS: Final = 89_478_485
"""Pixels of the largest image, Pillow's own limit: a small file can claim to hold any number."""
PAUSES: Final = (1.0, 3.0, 10.0)
"""Seconds before a file that could not be read is read again."""
Pixels = npt.NDArray[np.uint8]
_FILTERS: Final = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Files(Protocol):
    """Files by number, such as one split of a data set."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the name of a file in messages."""

    def read(self, index: int) -> bytes:
        """Return the content of a file, or raise OSError."""


@final
class Decoder:
    """Views of image files as pure functions of numbers; picklable.

    Legend: ``S`` side of the crop.
    """

    def __init__(self, files: Files, rules: CropRules) -> None:
        self.files, self.rules = files, rules

    def image(self, index: int) -> Image.Image:
        """Read and decode a file, in RGB.

        Raises
        ------
        UserError
            It is no image that can be used; the message names it.
        OSError
            It cannot be read, tried four times.
        """
        with quietly():
            image = read_image(self.files, index)
        height, width = evaluation_sides(self.rules, (image.height, image.width))
        if height * width > MAX_PIXELS:
            narrow = f"is {image.width} x {image.height} pixels, too narrow: it would be resized to {width} x {height}"
            raise _named(self.files, index, narrow)
        return image

    def plain(self, image: Image.Image, index: int, crop: int, side: int | None = None) -> Pixels:
        """Return the crop with a number of the decoded training image at ``index``, ``(3, S, S)``.

        With ``side``, it is the same box and flip at another side.
        """
        return self._cropped(image, plain_crop(self.rules, (image.height, image.width), index, crop), side)

    def strong(
        self, image: Image.Image, seed: int, epoch: int, index: int, row: int, side: int | None = None
    ) -> Pixels:
        """Return a strongly augmented view of the decoded training image at ``index``, ``(3, S, S)``.

        With ``side``, it is the same box, flip and operations at another side.
        """
        box = strong_crop(self.rules, (image.height, image.width), seed, epoch, index, row)
        crop = self._cropped(image, box, side)
        draw = generator(seed, "strong-image", epoch, index, row)
        return strongly_augmented(torch.from_numpy(np.ascontiguousarray(crop))[None], draw)[0].numpy()

    def test(self, image: Image.Image) -> Pixels:
        """Return a decoded test image, ``(3, S, S)``: resized, and its centre."""
        return central_pixels(self.rules, image)

    def _cropped(self, image: Image.Image, crop: Crop, side: int | None = None) -> Pixels:
        # First the crop and then the resize: with `box=`, pixels around the box would shine into its border.
        box = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        side = side or self.rules.size
        resized = box.resize((side, side), _FILTERS[self.rules.interpolation])
        return _pixels(resized)[:, :, ::-1] if crop.flip else _pixels(resized)


def central_pixels(rules: CropRules, image: Image.Image) -> Pixels:
    """Return what evaluation sees of an RGB image, ``(3, S, S)``: the image is resized, and its centre is cut out."""
    height, width = evaluation_sides(rules, (image.height, image.width))
    resized = image.resize((width, height), _FILTERS[rules.interpolation])
    return _pixels(resized.crop(central_box(rules, (height, width))))


def read_image(files: Files, index: int) -> Image.Image:
    """Read and decode a file, in RGB; enter `quietly` around it.

    Raises
    ------
    UserError
        It is no image that can be used; the message names it.
    OSError
        It cannot be read, tried four times.
    """
    data = _read(files, index)
    try:
        return rgb(data)
    except Unusable as error:
        raise _named(files, index, str(error)) from None


def _named(files: Files, index: int, fault: str) -> UserError:
    return UserError(f"{files.name(index)} {fault}; replace or remove it")


def _read(files: Files, index: int) -> bytes:
    for pause in PAUSES:
        try:
            return files.read(index)
        except OSError:
            time.sleep(pause)
    try:
        return files.read(index)
    except OSError as error:
        raise OSError(error.errno, error.strerror or one_line(error), files.name(index)) from None


class Unusable(ValueError):
    """A file is no image that can be used; the message is a predicate for behind its name."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Show no warning of Pillow's; filters are the process's: enter this around threads that decode, not within."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, and of a palette's transparency, which is dropped
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def rgb(data: bytes) -> Image.Image:
    """Return the image in a file's content as RGB; to be called within `quietly`.

    Raises
    ------
    Unusable
        It is no image that can be used.
    """
    if not data:
        raise Unusable("is empty")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
        return as_rgb(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Unusable(f"is an image of more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise Unusable(f"is no image of a format that is read ({', '.join(FORMATS)})") from None
    except (Unusable, MemoryError):
        raise
    except Exception as error:  # on damaged files Pillow's plugins raise what they happen to meet
        raise Unusable(f"cannot be decoded: {one_line(error)}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode in RGB, as the module says; raise `Unusable` for pixels of unknown range."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        raise Unusable(f"has pixels of 32 bits (mode {image.mode}), whose range is unknown: save it as 8 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: Image.Image) -> Pixels:
    """Return an RGB image as ``(3, H, W)``; channels lie innermost in memory, as in Pillow."""
    return np.asarray(image).transpose(2, 0, 1)
