"""Hold users' methods as submodules: the path of this module is the folders of methods that are named.

So a file ``mine.py`` there is the module ``kdbench.experiment.user_methods.mine`` in every process that has the
variables, and ``sys.path`` stays as it is.
"""

from __future__ import annotations

import sys

from kdbench.experiment.own_folders import folders_of


def refresh() -> None:
    """Forget modules of folders that are not named any more."""
    named = [str(folder) for folder in folders_of("methods")]
    if named != __path__:
        __path__[:] = named
        for module in [name for name in sys.modules if name.startswith(f"{__name__}.")]:
            del sys.modules[module]


__path__ = [str(folder) for folder in folders_of("methods")]
