"""Sure: the student follows the teacher most where the teacher is right and sure of it.

The KL divergence of each image is weighed by the teacher's probability of its class.
"""

from torch import Tensor

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Method, Outputs, Reads, temperature, weight
from kdbench.methods.kd import kl_per_image


def probability_of(targets: Tensor, logits: Tensor) -> Tensor:
    """Return the probability ``(B,)`` that logits ``(B, K)`` give to classes ``(B,)``."""
    return at_least_float32(logits).softmax(dim=1).gather(1, targets[:, None]).squeeze(1)


class Sure(Method):
    """Cross entropy, and the weighed KL divergence."""

    VERSION = 1
    FAMILY = "logits"
    READS = Reads(student={"logits"}, teacher={"logits"})

    class Config(Method.Config):
        """Defaults: chosen by hand."""

        kl_weight: float = weight(1.0)
        """Weight of the KL divergence."""
        temperature: float = temperature(4.0)
        """Temperature of both softmaxes."""

    config: Config

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross entropy and the KL divergence."""
        kl = kl_per_image(student.logits, teacher.logits, self.config.temperature)
        sure = probability_of(batch.targets, teacher.logits)
        return {
            "ce": batch.cross_entropy(student.logits).mean(),
            "kl": self.config.kl_weight * (sure * kl).mean(),
        }
