"""TTM: as WTTM (see wttm), with every image counting the same.

The student, at temperature 1, matches the softmax of gamma times the teacher's logits.
"""

from torch import Tensor

from kdbench.method import Batch, Method, Outputs, Paper, Reads, log, positive, weight

from .wttm import powered_kl


class TTM(Method):
    """Cross entropy and the divergence to the teacher's powered softmax."""

    FAMILY = "logits"
    PAPER = Paper(
        "Knowledge Distillation Based on Transformed Teacher Matching", "Zheng, Yang", "ICLR", 2024, "2402.11148"
    )
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "there is no squared temperature: how much the divergence counts depends on the exponent",
        "the authors take powers of float32 probabilities, which vanish for logits more than 104 below the largest; "
        "here they are taken of logarithms and do not",
        "the authors report the best test epoch; a protocol here says which epoch counts",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: those of the authors' one command, for vgg13>vgg8."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy."""
        kd_weight: float = weight(45.0, search=log(1.0, 200.0))
        """Weight of the divergence, which has no squared temperature."""
        exponent: float = positive(0.1, search=log(0.05, 1.0))
        """Power of the teacher's probabilities, the paper's gamma: one over a temperature of the teacher alone."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        kl = powered_kl(student.logits, teacher.logits, config.exponent).mean()
        return {"ce": config.ce_weight * batch.cross_entropy(student.logits).mean(), "ttm": config.kd_weight * kl}
