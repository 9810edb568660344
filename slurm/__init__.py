"""Submit grids to Slurm and ask it about their jobs.

Imported as ``kdbench.slurm``.
"""

if __name__ != "kdbench.slurm":
    raise ImportError(
        f"the folder slurm/ is the package kdbench.slurm, not {__name__!r}: "
        "run 'pip install -e .' in the checkout, then 'import kdbench.slurm'"
    )
