"""Trains cells: session, lockstep, run, step, record.

One training loop for all methods; no method is known by name. Grids, clusters and tables are above.
"""
