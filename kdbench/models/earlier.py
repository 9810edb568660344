"""Names of networks that cells and teachers of earlier versions have, and new ones cannot be given."""

from __future__ import annotations

from kdbench.errors import UserError
from kdbench.models import TIMM, canonical_network


def network_name(name: str) -> tuple[str, UserError | None]:
    """Return the one spelling of a network's name, and why nothing new may have it; None where it may.

    A name of timm's could have a tag of pretrained weights, none of which were loaded.

    Raises
    ------
    UserError
        For a name that is not known.
    """
    try:
        return canonical_network(name), None
    except UserError as error:
        prefix, _, network = name.strip().partition(":")
        if f"{prefix.lower()}:" != TIMM or "." not in network:
            raise
        return TIMM + network.strip(), error
