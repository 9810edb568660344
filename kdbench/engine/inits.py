"""Bring weights into a folder of runs, for students and teachers whose training starts from them."""

from __future__ import annotations

from pathlib import Path

from kdbench.engine.session import Session
from kdbench.models import canonical_network


def bring(session: Session, network: str, weights: str | Path) -> tuple[str, int | None]:
    """Keep weights in a session's folder of runs for a network's training to start from.

    Parameters
    ----------
    weights
        A file, or the name of published weights.

    Returns
    -------
    init
        Their hash, for :meth:`Session.cell`.
    other_classes
        Number of classes of their classifier where it was left out, since the data set has others.

    Raises
    ------
    UserError
        There are no such weights, or they do not fit the network.
    """
    from kdbench.models.bring import make_start  # noqa: PLC0415 - timm takes seconds to import

    start, other_classes = make_start(canonical_network(network), str(weights), session.protocol, session.dataset)
    return start.keep(session.runs), other_classes
