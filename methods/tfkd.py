"""Tf-KD, self-training (Tf-KD_self): KD from a network of the student's own kind, trained before; see also tfreg.

Its pairs have one network twice, such as resnet20>resnet20. The divergence is the authors': averaged over classes,
too, so it is KD's over the number of classes, for which a multiplier of 50 or 100 makes up.
"""

from torch import Tensor

from kdbench.method import Batch, Method, Outputs, Paper, Reads, fraction, linear, log, temperature, weight

from .kd import kl_per_image


class TfKD(Method):
    """Cross entropy and the divergence to the softened softmax of the same network, trained before."""

    FAMILY = "logits"
    PAPER = Paper(
        "Revisiting Knowledge Distillation via Label Smoothing Regularization", "Yuan, Tay, Li, Wang, Feng",
        "CVPR", 2020, "1909.11723",
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the divergence is averaged over classes as well, as in the authors' code: with 100 classes and the multiplier "
        "50 it counts half as much as KD's",
        "the authors' networks for CIFAR-100 are of another code base: 0.95, 20 and 1 (alpha, temperature, multiplier) "
        "for MobileNetV2 and ShuffleNetV2, 0.4, 20 and 50 for GoogLeNet, 0.9, 20 and 50 for DenseNet121, "
        "0.9, 20 and 100 for ResNeXt29",
        "any teacher can be named; the paper's is the student's own network, as in resnet20>resnet20",
    )
    OURS = dict.fromkeys(
        ("alpha", "temperature", "multiplier"),
        "no source states it for the networks here; the authors' for a ResNet18 of CIFAR's size",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' for ResNet18 on CIFAR-100."""

        alpha: float = fraction(0.95, search=linear(0.1, 1.0))
        """Weight of the divergence; that of the cross entropy is what is left to 1."""
        temperature: float = temperature(6.0, search=log(1.0, 40.0))
        """Divides the logits of both networks."""
        multiplier: float = weight(50.0, search=log(1.0, 200.0))
        """Further factor of the divergence, which includes the squared temperature and is a mean over classes, too."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        kl = kl_per_image(student.logits, teacher.logits, config.temperature).mean() / student.logits.shape[1]
        return {
            "ce": (1 - config.alpha) * batch.cross_entropy(student.logits).mean(),
            "kd": config.alpha * config.multiplier * kl,
        }
