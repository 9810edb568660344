"""SSKD: how similar an image's rotated views are to the images of a batch is knowledge too.

A projection head on the frozen teacher is first trained to find each rotated view's own image; then the student, with
a head of its own, follows the teacher's similarities, its logits of the plain views and those of the rotated ones. Of
the rows where the teacher is wrong only the least wrong ones are kept. Follows the authors' code.

    0.1 CE + 0.9 KD + 2.7 KD of rotated views + 10 KL of similarities, temperatures 4, 4 and 0.5

Legend: ``B`` images, ``V`` views in view-major rows, ``R = (V - 1) * B`` rotated rows, ``D`` width, ``K`` classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, cross_entropy, inner_products
from kdbench.method import (
    Batch,
    Paper,
    PhaseName,
    Pretraining,
    Reads,
    Setup,
    ViewPlan,
    fraction,
    log,
    temperature,
    weight,
)
from kdbench.net import Net, Outputs

from ._task import PretrainedMethod, task_reads
from .kd import kl_per_image


def projection_head(width: int) -> nn.Sequential:
    """Two linear layers of this width with a ReLU between them."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def similarities(features: Tensor, num_plain: int) -> Tensor:
    """Cosines ``(R, B)`` of rotated with plain rows, from projected features ``(V*B, D)``, the plain rows first."""
    features = functional.normalize(at_least_float32(features), dim=1)
    return inner_products(features[num_plain:], features[:num_plain])


def kept_rows(scores: Tensor, targets: Tensor, ratio: float) -> Tensor:
    """Which rows of the teacher's scores ``(R, K)`` are kept, ``(R,)`` booleans.

    All whose target ``(R,)`` ranks first, and of the others the ``int(ratio * number)`` with the best ranks; of equal
    ranks the first ones.
    """
    ranks = (scores > scores.gather(1, targets[:, None])).sum(dim=1)
    num_right = (ranks == 0).sum()
    num_kept = num_right + (ratio * (len(ranks) - num_right).double()).long()
    return ranks.argsort(stable=True).argsort() < num_kept


def kept_divergence(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float, ratio: float) -> Tensor:
    """``temperature**2 * KL(teacher || student)`` in nats from scores ``(R, K)``, mean over kept rows; 0 with none."""
    kept = kept_rows(teacher, targets, ratio)
    divergence = kl_per_image(student, teacher, temperature)
    return torch.where(kept, divergence, 0).sum() / kept.sum().clamp_min(1)


def own_images(scores: Tensor) -> Tensor:
    """The image that each rotated row shows, ``(R,)``, from its scores of a batch's images ``(R, B)``."""
    rows, images = scores.shape
    return torch.arange(images, device=scores.device).repeat(rows // images)


class SSKD(PretrainedMethod):
    """KD of plain and rotated views, and of the similarities between them that a trained teacher's head finds."""

    FAMILY = "contrast"
    PAPER = Paper("Knowledge Distillation Meets Self-Supervision", "Xu, Liu, Li, Loy", "ECCV", 2020, "2006.07114")
    READS = Reads(student={"penultimate"}, teacher={"logits", "penultimate"})
    VIEWS = ViewPlan((0, 1, 2, 3))
    DEVIATIONS = (
        "images are flipped where the protocol flips them; the authors' are not",
        "the published numbers are of the authors' own teachers, which differ from those of the other methods' tables",
        "of rows with equal ranks the first ones are kept; in the code an unstable sort decides",
    )
    config: "Config"

    class Config(PretrainedMethod.Config):
        """Defaults: the authors' for all CIFAR-100 pairs."""

        init_fraction: float = 60 / 240
        """Length of pre-training over that of the protocol; the reference's 60 of 240 epochs."""
        ce_weight: float = 0.1
        """Weight of the cross entropy."""
        kd_weight: float = 0.9
        """Weight of the KL divergence of the plain views."""
        tf_weight: float = weight(2.7, search=log(0.27, 27.0))
        """Weight of the KL divergence of the rotated views."""
        tf_temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Temperature of that divergence, which includes its square."""
        tf_ratio: float = fraction(1.0)
        """Share that is kept there of the rotated views that the teacher gets wrong."""
        ss_weight: float = weight(10.0, search=log(1.0, 100.0))
        """Weight of the KL divergence of the similarities."""
        ss_temperature: float = temperature(0.5)
        """Temperature of that divergence, which includes its square."""
        ss_ratio: float = fraction(0.75)
        """Share that is kept there of the rotated views to which the teacher's head finds another image."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.student_head, self.teacher_head = (projection_head(net.width) for net in (setup.student, setup.teacher))

    @classmethod
    def reads(cls, config: Config, phase: PhaseName) -> Reads:
        """Return the teacher's features in pre-training; afterwards the rotated views' logits are the method's own."""
        return Reads(teacher={"penultimate"}) if phase == "pretraining" else cls.READS | task_reads(config)

    def pretrain(self, student: Net) -> Pretraining:
        """Return the training of the teacher's head, which stays as it is afterwards; the settings are the authors'."""
        head, milestones = (self.teacher_head,), (0.5, 0.75)
        loss = self.pretraining_loss
        return Pretraining(loss=loss, train=head, freeze=head, learning_rate=0.05, milestones=milestones)

    def pretraining_loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross entropy of each rotated view's own image among the batch's, over cosines."""
        scores = similarities(self.teacher_head(teacher.penultimate), batch.size)
        return {"ss": cross_entropy(scores, own_images(scores)).mean()}

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        ours, theirs = student.logits[batch.size :], teacher.logits[batch.size :]
        labels = batch.targets.repeat(len(ours) // batch.size)
        transformed = kept_divergence(ours, theirs, labels, config.tf_temperature, config.tf_ratio)
        ours = similarities(self.student_head(student.penultimate), batch.size)
        theirs = similarities(self.teacher_head(teacher.penultimate), batch.size)
        similar = kept_divergence(ours, theirs, own_images(theirs), config.ss_temperature, config.ss_ratio)
        return {"tf": config.tf_weight * transformed, "ss": config.ss_weight * similar}
