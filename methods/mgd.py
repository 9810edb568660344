"""MGD: from the student's last map, of which random channels are hidden, two convolutions generate the teacher's.

``loss = sum over channels and positions of (generated - teacher)^2``, mean over images.

Follows the authors' code for classification: a channel is hidden at all positions, and what is kept is not scaled up.
The squared error is a sum, so that the weight that suits it depends on the size of the map; the published one is for
ImageNet.

Legend: ``B`` images; maps ``(B, C, H, W)`` of one size.
"""

import torch
from torch import Tensor, nn

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, fraction, linear, log, weight

from ._task import TaskMethod


def kept_channels(num_images: int, num_channels: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """Draw which channels ``(B, C)`` of each image are kept, each with probability ``1 - mask_ratio``."""
    draw = torch.rand(num_images, num_channels, generator=generator, device=generator.device)
    return draw >= mask_ratio


def mgd_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of maps ``(B, C, H, W)``, summed over channels and positions, mean over images."""
    return (at_least_float32(generated) - at_least_float32(teacher)).square().sum(dim=(1, 2, 3)).mean()


class MGD(TaskMethod):
    """Squared error of maps that are generated from masked ones, of the last stage."""

    FAMILY = "features"
    PAPER = Paper("Masked Generative Distillation", "Yang, Li, Shao, Shi, Yuan, Yuan", "ECCV", 2022, "2205.01529")
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "the teacher is in eval mode; the authors' runner puts it into training mode, with statistics of the batch",
        "whole channels are hidden, as in the authors' code for classification; positions are hidden for detection",
        "mgd_weight and mask_ratio are those of ImageNet; the squared error is a sum, so other map sizes want others",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' for ImageNet."""

        mgd_weight: float = weight(7e-5, search=log(1e-6, 1e-2))
        """Weight of the squared error, summed over channels and positions."""
        mask_ratio: float = fraction(0.15, search=linear(0.0, 0.75))
        """Probability that a channel of an image is hidden."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        ours, theirs = setup.student.shapes[-1], setup.teacher.shapes[-1]
        if ours[1:] != theirs[1:]:
            sizes = " and ".join(
                f"{net.name}'s {rows} x {columns}"
                for net, (_, rows, columns) in ((setup.student, ours), (setup.teacher, theirs))
            )
            raise ValueError(f"MGD needs last maps of one size, not {sizes}: choose another network, or another method")
        channels = theirs[0]
        self.align = nn.Conv2d(ours[0], channels, 1) if ours[0] != channels else nn.Identity()
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        self.generation = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1])

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, aligned = self.config, self.align(student.stages[-1])
        kept = kept_channels(batch.size, aligned.shape[1], config.mask_ratio, batch.generator)
        generated = self.generation(aligned * kept[:, :, None, None])
        return {"mgd": config.mgd_weight * mgd_loss(generated, teacher.stages[-1])}
