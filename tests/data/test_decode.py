"""Pixels of decoded images against torchvision's and timm's transforms, and files that are no images."""

from __future__ import annotations

import dataclasses
import errno
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import Files, centre, encoded, photo, views
from PIL import Image
from small_data import message
from timm.data import ImageDataset
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize
from torchvision.transforms import functional as F

from kdbench.data.decoding import decode
from kdbench.data.decoding.crops import CropRules, plain_crop, strong_crop
from kdbench.data.decoding.decode import Decoder
from kdbench.data.randaugment import strongly_augmented
from kdbench.utils.streams import generator

RULES = CropRules(
    size=48, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bilinear", evaluation_size=56, flip=True
)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def decoder(*contents: bytes, rules: CropRules = RULES) -> Decoder:
    return Decoder(Files(contents), rules)


def bicubic(rules: CropRules = RULES) -> CropRules:
    return dataclasses.replace(rules, interpolation="bicubic")


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resized_crop(image: Image.Image, crop: tuple[int, int, int, int], rules: CropRules, *, flip: bool) -> Tensor:
    size = [rules.size, rules.size]
    resized = F.resized_crop(image, *crop, size, MODES[rules.interpolation], antialias=True)
    return pixels(F.hflip(resized) if flip else resized)


@pytest.mark.parametrize("rules", [RULES, bicubic()])
@pytest.mark.parametrize("size", [(90, 70), (31, 200), (1, 40), (20, 20)])
def test_training_crops_are_torchvisions(rules: CropRules, size: tuple[int, int]) -> None:
    image = photo(*size)
    ours = decoder(b"", encoded(image), rules=rules)
    flips = set()
    for number in range(12):
        *box, flip = plain_crop(rules, (image.height, image.width), 1, number)
        assert torch.equal(views(ours, 1, number)[0], resized_crop(image, tuple(box), rules, flip=flip))
        flips.add(flip)
    assert flips == {False, True}


def test_strong_views_have_crops_of_their_own() -> None:
    image = photo(90, 70)
    rows = views(decoder(encoded(image)), 0, 5, seed=1, epoch=2, num_strong=2)
    assert rows.shape == (3, 3, 48, 48)
    assert rows.dtype == torch.uint8
    assert torch.equal(rows[:1], views(decoder(encoded(image)), 0, 5, seed=3, epoch=4))
    for row in range(2):
        *box, flip = strong_crop(RULES, (70, 90), 1, 2, 0, row)
        crop = resized_crop(image, tuple(box), RULES, flip=flip)
        expected = strongly_augmented(crop[None], generator(1, "strong-image", 2, 0, row))[0]
        assert torch.equal(rows[1 + row], expected)


@pytest.mark.parametrize("rules", [RULES, bicubic(), dataclasses.replace(RULES, evaluation_size=31)])
@pytest.mark.parametrize("size", [(90, 70), (70, 91), (56, 56), (20, 33), (1, 40), (57, 400)])
def test_test_images_are_torchvisions(rules: CropRules, size: tuple[int, int]) -> None:
    """Padded where the resized image is smaller than the crop."""
    image = photo(*size)
    resize = Resize(rules.evaluation_size, MODES[rules.interpolation], antialias=True)
    expected = Compose([resize, CenterCrop(rules.size), PILToTensor()])(image)
    assert torch.equal(centre(decoder(encoded(image), rules=rules), 0), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_test_images_are_timms(interpolation: str) -> None:
    image = photo()
    theirs = transforms_imagenet_eval(224, crop_pct=0.875, interpolation=interpolation, normalize=False)
    rules = dataclasses.replace(RULES, size=224, evaluation_size=256)
    if interpolation == "bicubic":
        rules = bicubic(rules)
    assert torch.equal(centre(decoder(encoded(image, "JPEG"), rules=rules), 0), theirs(jpeg(image)))


def jpeg(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG")))


def odd_images() -> dict[str, bytes]:
    image = photo(50, 40)
    alpha = photo(50, 40, seed=1).convert("L")
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    turned = Image.Exif()
    turned[0x0112] = 6
    animation = [image.convert("P"), photo(50, 40, seed=2).convert("P")]
    with_alpha = image.copy()
    with_alpha.putalpha(alpha)
    return {
        "grey": encoded(image.convert("L"), "JPEG"),
        "one bit": encoded(image.convert("1")),
        "palette": encoded(palette),
        "palette with one transparent colour": encoded(palette, transparency=3),
        "palette with transparencies": encoded(palette, transparency=bytes(range(256))),
        "grey with one transparent level": encoded(image.convert("L"), transparency=7),
        "alpha": encoded(with_alpha),
        "grey with alpha": encoded(with_alpha.convert("LA")),
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "CMYK, TIFF": encoded(image.convert("CMYK"), "TIFF"),
        "turned by EXIF": encoded(image, "JPEG", exif=turned.tobytes()),
        "damaged EXIF": encoded(image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0\x1a\x01\x05\0\xff\xff"),
        "animation": encoded(animation[0], "GIF", save_all=True, append_images=animation[1:]),
        "WebP": encoded(image, "WEBP"),
        "BMP": encoded(image, "BMP"),
        "PPM": encoded(image, "PPM"),
    }


@pytest.mark.parametrize("kind", odd_images())
def test_modes_become_rgb_as_in_torchvisions_and_timms_readers(kind: str, tmp_path: Path) -> None:
    content = odd_images()[kind]
    image = decoder(content).image(0)  # warnings are errors here
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/0.jpg").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchvisions = pil_loader(tmp_path / "cat/0.jpg")
        timms = ImageDataset(str(tmp_path))[0][0]
    assert image.size == (50, 40)
    assert image.mode == "RGB"
    assert image.tobytes() == torchvisions.tobytes() == timms.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_images_of_16_bits_keep_their_upper_8(kind: str) -> None:
    values = np.arange(60 * 40, dtype=np.uint16).reshape(40, 60) * 27
    image = decoder(encoded(Image.fromarray(values), kind)).image(0)
    assert np.array_equal(np.asarray(image), np.repeat(values[..., None] >> 8, 3, axis=2))


def test_colour_of_16_bits_keeps_its_upper_8() -> None:
    """As Pillow reads it, which cannot write it: a PNG by hand."""
    values = np.random.default_rng(0).integers(0, 2**16, (4, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = {b"IHDR": struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    ]
    image = decoder(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).image(0)
    assert np.array_equal(np.asarray(image), values >> 8)


def bomb(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims to be large."""
    content = bytearray(encoded(Image.new("L", (1, 1))))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def broken() -> dict[str, tuple[bytes, str]]:
    whole = encoded(photo(90, 70), "JPEG")
    png = encoded(photo(90, 70))
    return {
        "empty": (b"", "is empty"),
        "text": (b"Not found\n" * 100, "is no image of a format that is read (JPEG, PNG, WEBP, BMP, PPM, TIFF, GIF)"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image of a format that is read"),
        "truncated": (whole[: len(whole) // 2], "cannot be decoded: image file is truncated"),
        "a header": (whole[:300], "cannot be decoded"),
        "truncated PNG": (png[: len(png) // 2], "cannot be decoded: image file is truncated"),
        "damaged PNG": (png[:60] + bytes(200) + png[260:], "cannot be decoded"),
        "bomb": (bomb(10_000, 10_000), "is an image of more than 89,478,485 pixels"),
        "large bomb": (bomb(100_000, 100_000), "is an image of more than 89,478,485 pixels"),
        "32 bits": (encoded(Image.new("I", (9, 9), 70_000), "TIFF"), "has pixels of 32 bits (mode I)"),
        "floats": (encoded(Image.new("F", (9, 9), 0.5), "TIFF"), "has pixels of 32 bits (mode F)"),
    }


@pytest.mark.parametrize("kind", broken())
def test_what_is_no_image_is_one_line_with_its_name(kind: str) -> None:
    content, reason = broken()[kind]
    assert decode.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    text = message(lambda: decoder(content).image(0))
    assert text.startswith(f"train/cat/0.jpg {reason}")
    assert "BytesIO" not in text


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_an_image_too_narrow_to_be_resized_is_one_line(size: tuple[int, int]) -> None:
    rules = dataclasses.replace(RULES, size=224, evaluation_size=256)
    ours = decoder(encoded(Image.new("RGB", size)), rules=rules)
    assert f"train/cat/0.jpg is {size[0]} x {size[1]} pixels, too narrow" in message(lambda: ours.image(0))


class Failing(Files):
    """Each file fails a number of times."""

    def __init__(self, content: bytes, failures: int) -> None:
        super().__init__([content])
        self.failures = failures

    def read(self, index: int) -> bytes:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError(errno.EIO, "Input/output error", "/net/disk/0.jpg")
        return super().read(index)


def test_an_input_error_is_tried_again_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "PAUSES", (0.0, 0.0, 0.0))
    content = encoded(photo(90, 70))
    assert torch.equal(views(Decoder(Failing(content, 3), RULES), 0, 0), views(decoder(content), 0, 0))
    with pytest.raises(OSError, match=r"Input/output error: 'train/cat/0\.jpg'") as caught:
        Decoder(Failing(content, 4), RULES).image(0)
    assert caught.value.errno == errno.EIO
