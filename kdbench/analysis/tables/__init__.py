"""Tables of comparisons: one object, four renderings with equal numbers.

Numbers are formatted once, where an entry is made. Statistics come from :mod:`kdbench.analysis.stats`.
"""
