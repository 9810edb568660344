"""Strong augmentation: two random operations and a grey cut-out an image, batched on the images' device.

Cubuk, Zoph, Shlens, Le, RandAugment, arXiv 1909.13719, with the operations and ranges of FixMatch (Sohn et al., arXiv
2001.07685). Every operation gives what PIL's gives, pixel for pixel. What depends on an image's magnitude alone is
computed on the CPU, and pixels go through integers, or single roundings that IEEE 754 fixes, so that all devices agree.

Legend: ``N`` images, ``H`` x ``W`` pixels; an operation takes images uint8 ``(N, 3, H, W)`` and magnitudes float64
``(N,)`` on the CPU, and returns images uint8 ``(N, 3, H, W)``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

NUM_OPERATIONS = 2
"""Operations that each image goes through, drawn with replacement."""
LARGEST_CUT_OUT = 0.5
"""Largest side of the cut-out over the width of the image."""
GREY = (125, 123, 114)
"""Colour of the cut-out."""
CHUNK = 2**22
"""Pixel values of the images that an operation takes at once: bounds memory, changes no result."""


def _each(values: Tensor, images: Tensor) -> Tensor:
    """Return one value an image, ``(N,)``, as ``(N, 1, 1, 1)`` on the images' device."""
    return values.to(images.device)[:, None, None, None]


def _blend(degenerate: Tensor, images: Tensor, share: Tensor) -> Tensor:
    """Return degenerate images moved by ``share`` of the way towards the images, cut to whole grey levels."""
    start = degenerate.float()
    return (start + _each(share.float(), images) * (images.float() - start)).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Luma of ITU-R 601, int32 ``(N, 1, H, W)``."""
    red, green, blue = images.int().split(1, dim=1)
    luma: Tensor = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Replace each value by that of its channel's table, ``(N, 3, 256)``, cut to whole grey levels in 0..255."""
    levels = table.clamp(0, 255).to(torch.uint8)
    return levels.gather(2, images.flatten(2).long()).view_as(images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0..255."""
    low, high = images.flatten(2).aminmax(dim=2, keepdim=True)
    span = (high - low).double()
    scale = torch.full_like(span, 255.0) / span.clamp(min=1)
    level = torch.arange(256, device=images.device)
    return _look_up(images, torch.where(span > 0, level * scale - low * scale, level))


def brightness(images: Tensor, share: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(torch.zeros_like(images), images, share)


def color(images: Tensor, share: Tensor) -> Tensor:
    """Blend with the grey image."""
    return _blend(_grey(images), images, share)


def contrast(images: Tensor, share: Tensor) -> Tensor:
    """Blend with the mean of the grey image, rounded."""
    num_pixels = images.shape[2] * images.shape[3]
    total = _grey(images).sum(dim=(2, 3), keepdim=True)
    return _blend((2 * total + num_pixels) // (2 * num_pixels), images, share)


def sharpness(images: Tensor, share: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3 x 3 mean in which the centre counts five times; the border stays."""
    values = images.short()
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = values.clone()
    smooth[:, :, 1:-1, 1:-1] = (2 * (around + 4 * values[:, :, 1:-1, 1:-1]) + 13) // 26
    return _blend(smooth, images, share)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Make the levels of each channel equally frequent, as far as that goes."""
    values = images.flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values, dtype=torch.int32))
    up_to = counts.cumsum(2)
    below = up_to - counts
    step = below.gather(2, values.amax(dim=2, keepdim=True)) // 255
    table = (step // 2 + below) // step.clamp(min=1)
    return _look_up(images, torch.where(step > 0, table, torch.arange(256, device=images.device)))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper bits, the whole part of ``bits``, which is 1 to 8."""
    return images & _each(256 - 2 ** (8 - bits.long()), images).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels from a threshold on."""
    return torch.where(images < _each(threshold.ceil().short(), images), images, 255 - images)


def _affine(images: Tensor, rows: list[list[Tensor | float]]) -> Tensor:
    """Move each pixel's value there from ``rows @ (x, y, 1)``, its nearest pixel; black where that is outside.

    ``rows`` holds the two rows of the matrix, numbers or float64 ``(N,)``, in pixels from the upper left corner. As in
    PIL, they are rounded to 2^-16 at the centre of the first pixel, and then added up.
    """
    height, width = images.shape[2:]
    across, down = torch.arange(width, device=images.device), torch.arange(height, device=images.device)[:, None]
    source = []
    for by_x, by_y, offset in rows:
        steps = [by_x, by_y, offset + 0.5 * by_x + 0.5 * by_y]
        fixed = [torch.floor(torch.as_tensor(step) * 65536.0 + 0.5).long().to(images.device) for step in steps]
        x, y, first = (part.view(-1, 1, 1) for part in fixed)
        source.append((first + x * across + y * down) >> 16)
    column, row = source
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    address = torch.where(inside, row * width + column, 0).expand(len(images), -1, -1).flatten(1)
    moved = images.flatten(2).gather(2, address[:, None].expand(-1, 3, -1)).view_as(images)
    return moved * inside[:, None]


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre."""
    height, width = images.shape[2:]
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    x, y = width / 2, height / 2
    return _affine(images, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def shear(images: Tensor, slope: Tensor, *, axis: int) -> Tensor:
    """Shift each row (axis 0) or column (axis 1) by its distance from the border times a slope."""
    return _affine(images, [[1.0, slope, 0.0], [0.0, 1.0, 0.0]] if axis == 0 else [[1.0, 0.0, 0.0], [slope, 1.0, 0.0]])


def translate(images: Tensor, share: Tensor, *, axis: int) -> Tensor:
    """Shift to the left (axis 0) or upwards (axis 1) by a share of the side."""
    offset = share * images.shape[3 - axis]
    return _affine(images, [[1.0, 0.0, offset if axis == 0 else 0.0], [0.0, 1.0, offset if axis == 1 else 0.0]])


def cut_out(images: Tensor, share: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Fill a square with grey; its side is a share of the width, its centre at shares of width and height.

    As PIL draws a rectangle, its right and lower edge belong to it; at the border it is cut off.
    """
    height, width = images.shape[2:]
    side = share * width
    inside = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=images.device)
    for centre, length, shape in ((x * width, width, (1, 1, 1, -1)), (y * height, height, (1, 1, -1, 1))):
        first = (centre - side / 2).clamp(min=0).floor()
        last = (first + side).clamp(max=length).floor()
        position = torch.arange(length, device=images.device).view(shape)
        inside = inside & (position >= _each(first, images)) & (position <= _each(last, images))
    return torch.where(inside, torch.tensor(GREY, dtype=torch.uint8, device=images.device).view(3, 1, 1), images)


Operation = Callable[[Tensor, Tensor], Tensor]
OPERATIONS: dict[str, tuple[Operation | None, float, float]] = {
    "AutoContrast": (autocontrast, 0, 1),
    "Brightness": (brightness, 0.05, 0.95),
    "Color": (color, 0.05, 0.95),
    "Contrast": (contrast, 0.05, 0.95),
    "Equalize": (equalize, 0, 1),
    "Identity": (None, 0, 1),
    "Posterize": (posterize, 4, 8),
    "Rotate": (rotate, -30, 30),
    "Sharpness": (sharpness, 0.05, 0.95),
    "ShearX": (partial(shear, axis=0), -0.3, 0.3),
    "ShearY": (partial(shear, axis=1), -0.3, 0.3),
    "Solarize": (solarize, 0, 256),
    "TranslateX": (partial(translate, axis=0), -0.3, 0.3),
    "TranslateY": (partial(translate, axis=1), -0.3, 0.3),
}
"""What may happen to an image, and between what bounds the magnitude is uniform."""


def strongly_augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image after two random operations and a cut-out.

    Everything random is drawn first and for all images at once, whatever they show.

    Parameters
    ----------
    images
        ``(N, 3, H, W)``, uint8.
    generator
        On the CPU.
    """
    num_images = len(images)
    chosen = torch.randint(len(OPERATIONS), (NUM_OPERATIONS, num_images), generator=generator)
    levels = torch.rand(NUM_OPERATIONS, num_images, dtype=torch.float64, generator=generator)
    share, x, y = torch.rand(3, num_images, dtype=torch.float64, generator=generator)
    images, at_once = images.clone(), max(1, CHUNK // images[:1].numel())
    for which, level in zip(chosen, levels, strict=True):
        for number, (operation, low, high) in enumerate(OPERATIONS.values()):
            if operation is None:
                continue
            for index in (which == number).nonzero().flatten().split(at_once):
                place = index.to(images.device)
                images[place] = operation(images[place], low + (high - low) * level[index])
    pieces = zip(images.split(at_once), share.split(at_once), x.split(at_once), y.split(at_once), strict=True)
    return torch.cat([cut_out(piece, LARGEST_CUT_OUT * side, *centre) for piece, side, *centre in pieces])
