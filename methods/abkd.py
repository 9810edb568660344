"""ABKD: in place of KD's KL an alpha-beta divergence, of which the KL and the reverse KL are limits.

With ``P`` and ``Q`` the softmax of teacher and student at a temperature, and ``c = alpha + beta``, it is the sum over
classes of ``P**c / (beta c) + Q**c / (alpha c) - P**alpha Q**beta / (alpha beta)``, without a squared temperature.
Where alpha, beta or their sum is 0 it is the limit, up to a factor: see ``DEVIATIONS``. Powers are taken of logarithms.

Legend: ``B`` images, ``K`` classes.
"""

from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Method, Outputs, Paper, Reads, choice, linear, log, non_negative, positive, weight


def alpha_beta_divergence(student: Tensor, teacher: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """Alpha-beta divergence of the teacher's and the student's softmax, ``(B,)``, from logits ``(B, K)``.

    Logits are divided by the temperature. Where alpha, beta or both are 0, and where their sum is, the authors' form.
    """
    log_p = functional.log_softmax(at_least_float32(teacher) / temperature, dim=1)
    log_q = functional.log_softmax(at_least_float32(student) / temperature, dim=1)
    total = alpha + beta
    if alpha == beta == 0:
        terms = (log_q - log_p).square() / 2
    elif alpha == 0:
        terms = _generalized_kl(log_q, log_p, beta)
    elif beta == 0:
        terms = _generalized_kl(log_p, log_q, alpha)
    elif total == 0:
        ratio = alpha * (log_p - log_q)
        terms = (ratio.exp() - ratio - 1) / alpha
    else:
        powers = (total * log_p).exp() / (beta * total) + (total * log_q).exp() / (alpha * total)
        terms = powers - (alpha * log_p + beta * log_q).exp() / (alpha * beta)
    return terms.sum(dim=1)


def _generalized_kl(log_first: Tensor, log_second: Tensor, exponent: float) -> Tensor:
    """KL of two powered distributions that are not normalised, over the exponent, class by class, ``(B, K)``."""
    first, second = (exponent * log_first, exponent * log_second)
    return (first.exp() * (first - second) - first.exp() + second.exp()) / exponent


class ABKD(Method):
    """Cross entropy and the alpha-beta divergence of the softened probabilities."""

    FAMILY = "logits"
    PAPER = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via α-β-Divergence",
        "Wang, Yang, Wang, Wang, Xu, Huang", "ICML", 2025, "2505.04560",
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "at alpha = 0, beta = 0 or alpha + beta = 0 the divergence is the authors' (from their code for language "
        "models), which is alpha, or beta where alpha is 0, times the limit: for the limit, divide kd_weight by it",
        "there is no squared temperature, so kd_weight is larger than KD's",
        "the authors can move alpha and beta linearly over training; their command for CIFAR-100 keeps them",
    )
    OURS = {"temperature": "the authors' code for CIFAR-100 is not public; KD's"}
    config: "Config"

    class Config(Method.Config):
        """Defaults: those of the authors' command for CIFAR-100, resnet56>resnet20."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy."""
        kd_weight: float = weight(32.0, search=log(1.0, 100.0))
        """Weight of the divergence, which has no squared temperature."""
        alpha: float = non_negative(0.8, search=linear(0.1, 1.2))
        """Exponent of the teacher's probabilities; 1, with a beta near 0, is the KL from the teacher."""
        beta: float = choice(0.3, search=linear(0.1, 1.2))
        """Exponent of the student's probabilities, at least -alpha."""
        temperature: float = positive(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks."""

        def check(self) -> None:
            """Raise ValueError for a sum of the exponents below 0, and where rounding would be larger than the loss."""
            if self.beta < -self.alpha:
                raise ValueError(f"beta must be at least -alpha, {-self.alpha:g}, not {self.beta:g}")
            for name, value in (("alpha", self.alpha), ("beta", self.beta), ("alpha + beta", self.alpha + self.beta)):
                if 0 < abs(value) < 1e-3:
                    raise ValueError(f"{name} must be 0 or at least 0.001 away from it, not {value:g}")

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        divergence = alpha_beta_divergence(
            student.logits, teacher.logits, config.alpha, config.beta, config.temperature
        )
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "ab": config.kd_weight * divergence.mean(),
        }
