"""SRRL: what it reads of the teacher."""

from __future__ import annotations

import pytest
from stub_nets import stub_net, stub_setup

from kdbench.methods import srrl

pytestmark = pytest.mark.once


def test_srrl_reads_no_map_of_the_teacher() -> None:
    """Its features and logits are all that a cache has to keep."""
    assert srrl.SRRL.all_reads(srrl.SRRL.Config()).teacher == {"logits", "penultimate"}
    with pytest.raises(ValueError, match="pooled"):
        srrl.SRRL(srrl.SRRL.Config(connect="map"), stub_setup(stub_net(), stub_net()))
