"""A small diffusion model that denoises features, after DiffKD.

Legend: ``B`` images; maps ``(B, C, H, W)``, logits as maps of one pixel.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32

NUM_TIMES = 1000
"""Times of the diffusion; at time t the share of the signal's power is that of ``signal_powers``."""
NUM_EMBEDDED = 1280
"""Rows of the embedding of times in the authors' code; those from ``NUM_TIMES`` on are never used."""


def signal_powers(first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Share of the signal's power at each time, ``(NUM_TIMES,)``, float32: what a linear rise of noise leaves."""
    return (1 - torch.linspace(first, last, NUM_TIMES)).cumprod(dim=0)


def noised(maps: Tensor, noise: Tensor, power: Tensor) -> Tensor:
    """Maps ``(B, C, H, W)`` with noise, where ``power`` ``(B,)`` is the share of the signal."""
    power = power[:, None, None, None]
    return power.sqrt() * maps + (1 - power).sqrt() * noise


def denoised(maps: Tensor, noise: Tensor, power: Tensor, next_power: Tensor) -> Tensor:
    """Take one step of DDIM from maps with predicted noise, all ``(B, C, H, W)``, to a larger share of the signal."""
    signal = (maps - (1 - power).sqrt() * noise) / power.sqrt()
    return next_power.sqrt() * signal + (1 - next_power).sqrt() * noise


def conv_norm(in_channels: int, out_channels: int, size: int = 1) -> list[nn.Module]:
    """Return a convolution with bias that keeps a map's size, and batch norm."""
    return [nn.Conv2d(in_channels, out_channels, size, padding=size // 2), nn.BatchNorm2d(out_channels)]


@final
class Bottleneck(nn.Module):
    """Residual block of three convolutions, the middle of which has fewer channels."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        width = max(channels // reduction, 1)
        first, middle = conv_norm(channels, width), conv_norm(width, width, 3)
        self.block = nn.Sequential(*first, nn.ReLU(), *middle, nn.ReLU(), *conv_norm(width, channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps with the block's added."""
        return maps + self.block(maps)  # type: ignore[no-any-return]


def noise_predictor(channels: int, *, of_maps: bool) -> nn.Sequential:
    """Return the network that predicts noise, for maps or for logits."""
    if of_maps:
        return nn.Sequential(Bottleneck(channels, 4), Bottleneck(channels, 4), *conv_norm(channels, channels))
    width = 4 * channels
    first = [*conv_norm(channels, width), nn.ReLU(), *conv_norm(width, channels)]
    return nn.Sequential(*first, *conv_norm(channels, width), nn.ReLU(), nn.Conv2d(width, channels, 1))


def level_features(channels: int, *, of_maps: bool) -> nn.Module:
    """Return the network whose features the level of noise is read from, for maps or for logits."""
    if of_maps:
        return Bottleneck(channels, 8)
    return nn.Sequential(*conv_norm(channels, 2 * channels), nn.ReLU(), *conv_norm(2 * channels, channels))


@final
class Denoiser(nn.Module):
    """Denoises a student's features, and learns to from a teacher's: one for maps, one for logits."""

    powers: Tensor

    def __init__(self, in_channels: int, channels: int, num_steps: int, *, of_maps: bool) -> None:
        super().__init__()
        self.trans = nn.Conv2d(in_channels, channels, 1)
        self.times = nn.Embedding(NUM_EMBEDDED, channels)
        self.model = noise_predictor(channels, of_maps=of_maps)
        self.level = level_features(channels, of_maps=of_maps)
        self.level_head = nn.Linear(channels, 2)
        self.proj = nn.Sequential(*conv_norm(channels, channels))
        self.register_buffer("powers", torch.cat([signal_powers(), torch.ones(1)]), persistent=False)
        stride = NUM_TIMES // (2 * num_steps)
        self.steps = [(time, time - stride if time else -1) for time in range(stride * (num_steps - 1), -1, -stride)]

    def predicted_noise(self, maps: Tensor, times: Tensor) -> Tensor:
        """Return the noise predicted in maps at times ``(B,)`` or ``(1,)``, at least float32."""
        return at_least_float32(self.model(maps + self.times(times)[:, :, None, None]))

    def noise_level(self, maps: Tensor) -> Tensor:
        """Return the share of the student's maps, ``(B,)``, beside which noise has the rest."""
        shares = self.level_head(self.level(maps).mean(dim=(2, 3)))
        return at_least_float32(shares).softmax(dim=1)[:, 0]

    def forward(self, student: Tensor, generator: torch.Generator) -> Tensor:
        """Return the student's denoised features."""
        maps = at_least_float32(self.trans(student))
        level = self.noise_level(maps)[:, None, None, None]
        maps = level * maps + (1 - level) * draw_noise(maps, generator)
        for time, next_time in self.steps:
            noise = self.predicted_noise(maps, torch.full((1,), time, device=maps.device))
            maps = denoised(maps, noise, self.powers[time], self.powers[next_time])
        return self.proj(maps)  # type: ignore[no-any-return]

    def noise_error(self, teacher: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the noise predicted in the teacher's features at drawn times."""
        noise, times = draw_noise(teacher, generator), draw_times(teacher, generator)
        return functional.mse_loss(self.predicted_noise(noised(teacher, noise, self.powers[times]), times), noise)


def draw_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of a tensor's shape, device and type."""
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def draw_times(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a time of the diffusion for each image, ``(B,)``."""
    return torch.randint(NUM_TIMES, like.shape[:1], generator=generator, device=like.device)
