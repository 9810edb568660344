"""What every method must keep, as a table of checks that ``kdbench validate`` and the tests run.

Small cells on generated images; nothing here is used while a grid is trained.
"""
