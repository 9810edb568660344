"""KD: the student matches the teacher's softmax at a raised temperature.

The paper states no weights for CIFAR-100; the defaults are those of RepDistiller, as in every later table: 0.1 CE +
0.9 KL at temperature 4, where the KL is summed over classes, averaged over images and multiplied by the squared
temperature.

With ``standardize``, LSKD: Logit Standardization in Knowledge Distillation (Sun, Ren, Li, Wang, Cao; CVPR 2024;
arXiv 2403.01427): the logits of each image become z-scores before the temperature divides them, so that the
student follows the teacher's order of classes without its range. The cross entropy keeps the raw logits.

With ``normalize``, NormKD: Normalized Logits for Knowledge Distillation (Chi, Zheng, Li, Yang, Wu, Lin, Cai; arXiv
2308.00520): each network's logits are divided by the temperature times their own standard deviation over classes,
image by image, and each image counts with the square of what the teacher's are divided by.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Method, Outputs, Paper, Reads, among, later, log, temperature, weight


def kl_per_image(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """``temperature**2 * KL(teacher || student)`` of each image in nats, ``(B,)``, from logits ``(B, K)``.

    The temperature is one for all images, or ``(B, 1)``.
    """
    log_student = functional.log_softmax(at_least_float32(student) / temperature, dim=1)
    log_teacher = functional.log_softmax(at_least_float32(teacher) / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1, keepdim=True)
    return (divergence * temperature**2).squeeze(1)


def standardized(logits: Tensor) -> Tensor:
    """Z-scores of the logits ``(B, K)`` of each image, at least float32; the deviation is that of a sample, K - 1.

    1e-7 is added to the deviation, as in the authors' code, so that equal logits become 0.
    """
    logits = at_least_float32(logits)
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + 1e-7)


def deviation(logits: Tensor) -> Tensor:
    """Standard deviation of a sample, K - 1, of each image's logits ``(B, K)``, ``(B, 1)``; 1 where all are equal.

    Then, too, the logits can be divided by it, and their gradient is finite; 1e-6 is the rounding of equal logits.
    """
    values = at_least_float32(logits).std(dim=1, keepdim=True)
    return torch.where(values > 1e-6, values, 1.0)


def prepared(
    student: Tensor, teacher: Tensor, temperature: float, *, standardize: bool, normalize: bool
) -> tuple[Tensor, Tensor, float | Tensor]:
    """Logits ``(B, K)`` of both networks and a temperature, for `kl_per_image`.

    With ``normalize`` the student's logits have the teacher's deviation, and the temperature, ``(B, 1)``, is that
    deviation times the one given: both networks' logits are divided by their own, and images weighted, as in NormKD.
    """
    change = standardized if standardize else at_least_float32
    student, teacher = change(student), change(teacher)
    if not normalize:
        return student, teacher, temperature
    scale = deviation(teacher)
    return student * (scale / deviation(student)), teacher, temperature * scale


class KD(Method):
    """Cross entropy and the KL divergence to the teacher's softened softmax."""

    FAMILY = "logits"
    PAPER = Paper(
        "Distilling the Knowledge in a Neural Network",
        "Hinton, Vinyals, Dean", "NIPS deep learning workshop", 2014, "1503.02531",
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "weights 0.1 and 0.9 and temperature 4 are RepDistiller's; the paper gives none for CIFAR-100",
        "LSKD's published KD+LS is standardize = true, kd_weight = 9, temperature = 2 (3 for vgg13>vgg8 and "
        "vgg13>MobileNetV2; kd_weight = 1, temperature = 3 for ResNet50>MobileNetV2)",
        "NormKD's published setting is normalize = true, temperature = 2; on ImageNet 1, with both weights 0.5",
        "where all logits of an image are equal, NormKD's deviation is 1: its authors' code divides by 0 and gives NaN",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        ce_weight: float = weight(0.1, search=among(0.0, 0.1, 1.0))
        """Weight of the cross entropy."""
        kd_weight: float = weight(0.9, search=log(0.1, 30.0))
        """Weight of the KL divergence, which includes the squared temperature."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks."""
        standardize: bool = later(False, search=among(False, True))
        """Divide z-scores of the logits instead (LSKD), which wants a kd_weight of 9 and a temperature of 2."""
        normalize: bool = later(False)
        """Divide by the temperature times each network's deviation, too (NormKD), which wants a temperature of 2."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        inputs = prepared(
            student.logits, teacher.logits, config.temperature,
            standardize=config.standardize, normalize=config.normalize,
        )  # fmt: skip
        kl = kl_per_image(*inputs).mean()
        return {"ce": config.ce_weight * batch.cross_entropy(student.logits).mean(), "kd": config.kd_weight * kl}
