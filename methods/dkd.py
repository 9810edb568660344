"""DKD: the KL divergence of KD in two parts, between (target, all others) and among the other classes.

The second part, which KD weights by the teacher's doubt, gets a weight of its own. Everything is computed from
log-sum-exps: the authors' ``log(softmax)`` and their mask of -1000 have the same value but lose their gradient at
large margins. With ``standardize`` both terms are taken of z-scores of the logits, as in LSKD, and with ``normalize``
at the temperatures of NormKD (see kd).
"""

import torch
from torch import Tensor

from kdbench.functional import at_least_float32, warmup_factor
from kdbench.method import Batch, Method, Outputs, Paper, Reads, among, fraction, later, log, temperature, weight

from .kd import kl_per_image, prepared


def split_target(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(B, K)`` as those of the target, ``(B, 1)``, and those of the other classes, ``(B, K - 1)``."""
    target = targets[:, None]
    column = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, target), logits.gather(1, column + (column >= target).long())


def target_and_rest(logits: Tensor, targets: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits ``(B, 2)`` of the target and of all others at once, at this temperature, from logits ``(B, K)``."""
    target, others = split_target(at_least_float32(logits), targets)
    rest = temperature * (others / temperature).logsumexp(dim=1, keepdim=True)
    return torch.cat([target, rest], dim=1)


def tckd_per_image(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float | Tensor) -> Tensor:
    """Target-class term of each image, ``(B,)``: KL between (target, all others), from logits ``(B, K)``.

    As in KD, both logits are divided by the temperature and the divergence is multiplied by its square.
    """
    ours, theirs = (target_and_rest(logits, targets, temperature) for logits in (student, teacher))
    return kl_per_image(ours, theirs, temperature)


def nckd_per_image(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float | Tensor) -> Tensor:
    """Non-target-class term of each image, ``(B,)``: KD's KL among the other classes, from logits ``(B, K)``."""
    _, student_others = split_target(student, targets)
    _, teacher_others = split_target(teacher, targets)
    return kl_per_image(student_others, teacher_others, temperature)


def tckd_loss(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float | Tensor) -> Tensor:
    """Target-class term, mean over the images of logits ``(B, K)``."""
    return tckd_per_image(student, teacher, targets, temperature).mean()


def nckd_loss(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float | Tensor) -> Tensor:
    """Non-target-class term, mean over the images of logits ``(B, K)``."""
    return nckd_per_image(student, teacher, targets, temperature).mean()


class DKD(Method):
    """Target-class and non-target-class distillation, weighted apart."""

    FAMILY = "logits"
    PAPER = Paper("Decoupled Knowledge Distillation", "Zhao, Cui, Song, Qiu, Liang", "CVPR", 2022, "2203.08679")
    MIN_CLASSES = 3  # of two, only one is left besides the target: its term is always 0
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the warm-up of 20 of 240 epochs is a fraction of training here, so it scales with the number of epochs",
        "LSKD's published DKD+LS is standardize = true, temperature = 2, and alpha and beta 9 times their values",
        "NormKD's published NormKD+DKD is normalize = true, temperature = 2, and for alpha and beta 4 and 5; 7 and 2 "
        "for resnet56>resnet20, 5 and 4 for resnet110>resnet32, 3 and 6 for wrn_40_2>wrn_40_1 and vgg13>MobileNetV2, "
        "2 and 7 for vgg13>vgg8 and ResNet50>MobileNetV2, 0.5 and 8.5 for resnet32x4>ShuffleNetV1",
        "losses are taken from log-sum-exps: gradients stay finite where the authors' float32 code gives NaN",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: those of the authors' code (mdistiller) for CIFAR-100."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy; it is not warmed up."""
        alpha: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the target-class term (TCKD)."""
        beta: float = weight(8.0, search=log(0.5, 32.0))
        """Weight of the non-target-class term (NCKD)."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks."""
        warmup: float = fraction(20 / 240)
        """Fraction of training over which alpha and beta rise linearly from 0; 0 switches the warm-up off."""
        standardize: bool = later(False, search=among(False, True))
        """Divide z-scores of the logits instead (LSKD), which wants alpha and beta times 9 and a temperature of 2."""
        normalize: bool = later(False)
        """Divide by the temperature times each network's deviation, too (NormKD), which wants a temperature of 2."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        factor = warmup_factor(batch.progress, config.warmup)
        ours, theirs, temperature = prepared(
            student.logits, teacher.logits, config.temperature,
            standardize=config.standardize, normalize=config.normalize,
        )  # fmt: skip
        inputs = (ours, theirs, batch.targets, temperature)
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "tckd": factor * config.alpha * tckd_loss(*inputs),
            "nckd": factor * config.beta * nckd_loss(*inputs),
        }
