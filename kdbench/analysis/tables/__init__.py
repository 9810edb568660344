"""Tables of comparisons: one object, four renderings with equal numbers.

Numbers are formatted once, where an entry is made. What is computed comes from :mod:`kdbench.analysis.stats`.
"""
