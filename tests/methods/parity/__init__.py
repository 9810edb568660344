"""Adapters of stored reference values: ``NAME.py`` here is for ``tests/parity/NAME``; see the README there.

An adapter has ``computed(case)``, which yields pairs of a stored array's name and what this code computes from the
file's inputs. A name that the file does not have is passed over; a name that is yielded twice is compared twice.
``UNMET`` maps patterns of ``FILE/ARRAY`` that it cannot meet to the reason.
"""
