"""Very many cells: what a grid file means, what is left, what it will take, and the workers of this machine.

A cluster's jobs are submitted above, by :mod:`kdbench.slurm`; how a cell is trained is decided below.
"""
