"""SD-NKD: NKD on the whole image and on the regions of its last feature map, each of which the classifier reads.

One of the three forms of SDD; see `kdbench.methods._regions` for the regions and their weights. The second term is over
all classes, unlike NKD's: in the authors' code, the mask that should leave out the target hides nothing.
"""

from torch import Tensor
from torch.nn import functional

from kdbench.functional import cross_entropy
from kdbench.method import log, temperature, weight

from ._regions import DEVIATIONS, RegionMethod


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross entropy with the teacher's softmax, times the squared temperature, ``(B,)``; from logits ``(B, K)``."""
    terms = functional.softmax(teacher / temperature, dim=1) * functional.log_softmax(student / temperature, dim=1)
    return -(temperature**2) * terms.sum(dim=1)


class SDNKD(RegionMethod):
    """Cross entropy, and each region's soft target and soft cross entropy."""

    DEVIATIONS = (
        "the second term is over all classes: the mask that should leave out the target hides nothing in the authors' "
        "code",
        "gamma and the temperature are DKD's, from which the authors' code takes them, not NKD's",
        *DEVIATIONS,
    )
    config: "Config"

    class Config(RegionMethod.Config):
        """Defaults: those of the authors' code for CIFAR-100."""

        gamma: float = weight(8.0, search=log(0.5, 32.0))
        """Weight of the soft cross entropy, mean over the weighted regions; it includes the squared temperature."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of the soft cross entropy."""

    def compare(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, Tensor]:
        config = self.config
        target = (-cross_entropy(teacher, targets)).exp() * cross_entropy(student, targets)
        return {"target": target, "soft": config.gamma * soft_cross_entropy(student, teacher, config.temperature)}
