"""Very many cells: what a grid file means, what is left, what it will take, and the worker that does it.

Where workers run (this machine, a cluster) is decided above, in :mod:`kdbench.slurm`; how a cell is trained, below.
"""
