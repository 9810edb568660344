"""Hold users' networks as submodules: the path of this module is the folders of networks that are named.

It is for them what :mod:`kdbench.experiment.user_methods` is for methods.
"""

from __future__ import annotations

from kdbench.experiment.own_folders import folders_of

__path__ = [str(folder) for folder in folders_of("networks")]
