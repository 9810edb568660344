"""Grids on Slurm, and on this machine by the same path: submitit starts the jobs, run folders and Slurm tell of them.

Imported as ``kdbench.slurm``.
"""

if __name__ != "kdbench.slurm":
    raise ImportError(
        f"the folder slurm/ is the package kdbench.slurm, not {__name__!r}: "
        "run 'pip install -e .' in the checkout, then 'import kdbench.slurm'"
    )
