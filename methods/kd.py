"""KD: distilling the knowledge in a neural network.

Hinton, Vinyals, Dean; NIPS 2014 deep learning workshop; arXiv 1503.02531.
The student matches the teacher's softmax at a raised temperature. The paper states no weights for CIFAR-100; the
defaults are those of RepDistiller, as in every later table: 0.1 CE + 0.9 KL at temperature 4, where the KL is
summed over classes, averaged over images and multiplied by the squared temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional

from kdbench.method import Batch, Method
from kdbench.net import Outputs, Part

from .ce import at_least_float32, check_settings, cross_entropy


def kl_per_image(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``temperature**2 * KL(teacher || student)`` of each image in nats, ``(B,)``, from logits ``(B, K)``."""
    log_student = functional.log_softmax(at_least_float32(student) / temperature, dim=1)
    log_teacher = functional.log_softmax(at_least_float32(teacher) / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence * temperature**2


@final
class KD(Method):
    """Cross entropy and the KL divergence to the teacher's softened softmax."""

    FAMILY = "logits"
    teacher_reads: ClassVar[frozenset[Part]] = frozenset({"logits"})
    DEVIATIONS = ("weights 0.1 and 0.9 and temperature 4 are RepDistiller's; the paper gives none for CIFAR-100",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        ce_weight: float = 0.1
        """Weight of the cross entropy."""
        kd_weight: float = 0.9
        """Weight of the KL divergence, which includes the squared temperature."""
        temperature: float = 4.0
        """Divides the logits of both networks."""

        def __post_init__(self) -> None:
            check_settings(self, non_negative=("ce_weight", "kd_weight"), positive=("temperature",))

    config: Config

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted cross entropy and KL divergence."""
        config = self.config
        kl = kl_per_image(student.logits, teacher.logits, config.temperature).mean()
        return {
            "ce": config.ce_weight * cross_entropy(student.logits, batch.targets).mean(),
            "kd": config.kd_weight * kl,
        }


METHOD = KD
