"""FCFD: maps match where either network, continued from the other's map, ends in the same output.

Bridges carry maps from one network to the other. Paths that begin in one network, cross one bridge after a stage and
end in the other give logits and maps, which should be the teacher's; two paths count in a step, drawn at random.
Gradients pass through the frozen teacher, never to its weights.

Follows the authors' code, but for the teacher, which is in eval mode. Batch norms of a mixed path see statistics of
their own in the authors' code, which no evaluation uses; here they use those of the batch and keep none.

Legend: ``B`` images, ``K`` classes, ``S`` stages, ``P`` mixed paths.
"""

import itertools

import torch
from torch import Tensor, nn

from kdbench.functional import mean_squared_error, warmup_factor
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, Shape, fraction, log, temperature, weight
from kdbench.models.layers import conv3x3, running_statistics_kept
from kdbench.net import Net, Segments

from ._task import TaskMethod
from .kd import kl_per_image

NUM_PATHS = 2
"""Mixed paths that count in a step."""


def bridge(source: Shape, target: Shape, *, activated: bool) -> nn.Sequential:
    """Convolution from maps of one shape to maps of another, batch norm and, to maps behind a ReLU, a leaky ReLU.

    Raises
    ------
    ValueError
        One map is neither as large as the other, nor half or twice as large.
    """
    (channels, *size), (out_channels, *goal) = source, target
    convolution: nn.Module
    if size == goal:
        convolution = conv3x3(channels, out_channels)
    elif size == [2 * side for side in goal]:
        convolution = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)
    elif goal == [2 * side for side in size]:
        convolution = nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1)
    else:
        raise ValueError(
            f"FCFD carries maps of one network into the other, of the same, half or twice the size, not {size[0]} x "
            f"{size[1]} to {goal[0]} x {goal[1]}: choose another network, or another method"
        )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), *([nn.LeakyReLU(0.1)] if activated else []))


def drawn_paths(num_paths: int, generator: torch.Generator) -> Tensor:
    """Draw which mixed paths count, ``NUM_PATHS`` of them: 1 or 0 each, ``(P,)``."""
    numbers = torch.rand(num_paths, generator=generator, device=generator.device)
    return torch.zeros_like(numbers).index_fill(0, numbers.topk(min(NUM_PATHS, num_paths)).indices, 1.0)


def map_error(ours: Tensor, teacher: Tensor, *, last: bool) -> Tensor:
    """Mean squared error of maps ``(B, C, H, W)``; of the last stage, also that of means of their positive parts."""
    pairs = [(ours, teacher)]
    if last:
        pairs.append((torch.relu(ours).mean(dim=(2, 3)), torch.relu(teacher).mean(dim=(2, 3))))
    return torch.stack([mean_squared_error(*pair) for pair in pairs]).sum()


class FCFD(TaskMethod):
    """Errors of bridged maps at every stage, and divergences of the student and of mixed paths."""

    FAMILY = "features"
    PAPER = Paper("Function-Consistent Feature Distillation", "Liu, Kan, Shan, Chen", "ICLR", 2023, "2304.11832")
    MIN_STAGES = 2
    READS = Reads(student={"logits", "stages"}, teacher={"logits", "stages"})
    DEVIATIONS = (
        "the teacher is in eval mode and stays as it is; the authors have it in training mode, with statistics of the "
        "batch, and its running statistics move",
        "all maps are taken where a stage ends; the authors take those of VGG and ShuffleNetV1 before the last ReLU",
        "all mixed paths are computed, and the two that are drawn count; the authors compute those two alone",
        "the authors train with Nesterov momentum and report the best test epoch; a protocol here says both",
        "the warm-up of 20 of 240 epochs is a fraction of training here, so it scales with the number of epochs",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' for most pairs."""

        kd_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the student's KL divergence, which includes the squared temperature."""
        kd_temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides all logits in divergences."""
        mixture_weight: float = weight(1.0)
        """Weight of the divergence of each mixed path."""
        feature_weight: float = weight(5.0, search=log(0.01, 10.0))
        """Weight of the squared errors of maps."""
        warmup: float = fraction(20 / 240)
        """Fraction of training over which feature_weight rises linearly from 0; 0 switches the warm-up off."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        nets = (setup.teacher, setup.student)
        segments = tuple(self._segments(net) for net in nets)
        shapes = [net.shapes for net in nets]
        if len(shapes[0]) != len(shapes[1]):
            raise ValueError(
                f"FCFD needs networks of equally many stages, but {nets[0].name} has {len(shapes[0])} and "
                f"{nets[1].name} has {len(shapes[1])}: choose another network"
            )
        self._nets, self._pieces = nets, segments  # in tuples: they are no modules of the method
        self.to_teacher, self.to_student = (
            nn.ModuleList(
                bridge(source, target, activated=segments[role].activated)
                for source, target in zip(shapes[1 - role], shapes[role], strict=True)
            )
            for role in (0, 1)
        )
        del self.to_student[-1]  # no path begins behind the last stage
        self.min_images = 2 if any(side == [1, 1] for net in shapes for _, *side in net) else 1

    @staticmethod
    def _segments(net: Net) -> Segments:
        segments = net.backbone.segments()
        if segments is None:
            raise ValueError(f"FCFD runs networks from a stage on, which {net.name} does not offer: choose another one")
        return segments

    def mixed(self, bridged: list[Tensor], teacher: tuple[Tensor, ...]) -> list[tuple[Tensor, dict[int, Tensor]]]:
        """Run the mixed paths; return the logits of each, and its maps in the teacher by stage, from 0.

        Those that cross behind an early stage come first; of two, the one that ends in the student.

        Parameters
        ----------
        bridged
            The student's maps, carried to the teacher.
        teacher
            The teacher's maps.
        """
        results = []
        for stage, to_student in enumerate(self.to_student):
            for end, begin in ((1, to_student(teacher[stage])), (0, bridged[stage])):
                maps = list(
                    itertools.accumulate(self._pieces[end].steps[stage:], lambda x, step: step(x), initial=begin)
                )
                logits = self._nets[end].backbone.head()(self._pieces[end].finish(maps[-1]))
                results.append((logits, {} if end else dict(enumerate(maps[1:], start=stage + 1))))
        return results

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, last = self.config, len(teacher.stages) - 1
        with running_statistics_kept(each for net in self._nets for each in net.modules()):
            goals, maps = (
                (*outputs.stages[:last], pieces.close(outputs.stages[last]))
                for outputs, pieces in zip((teacher, student), self._pieces, strict=True)
            )
            bridged = [carry(each) for carry, each in zip(self.to_teacher, maps, strict=True)]
            paths = self.mixed(bridged, goals)
        chosen = drawn_paths(len(paths), batch.generator)
        errors = [
            map_error(ours, goal, last=stage == last)
            for stage, (ours, goal) in enumerate(zip(bridged, goals, strict=True))
        ]
        divergences = []
        for counts, (logits, passed) in zip(chosen, paths, strict=True):
            errors += [counts * map_error(ours, goals[stage], last=stage == last) for stage, ours in passed.items()]
            divergences.append(counts * kl_per_image(logits, teacher.logits, config.kd_temperature).mean())
        factor = warmup_factor(batch.progress, config.warmup) * config.feature_weight
        return {
            "feature": factor * torch.stack(errors).sum(),
            "mixture": config.mixture_weight * torch.stack(divergences).sum(),
        }
