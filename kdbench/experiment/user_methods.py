"""Hold users' methods as submodules: the path of this module is the folders of methods that are named.

So a file ``mine.py`` there is the module ``kdbench.experiment.user_methods.mine`` in every process that has the
variables, and ``sys.path`` stays as it is. :meth:`kdbench.experiment.own_code.Kind.refresh` keeps the path.
"""

from __future__ import annotations

from kdbench.experiment.own_folders import folders_of

__path__ = [str(folder) for folder in folders_of("methods")]
