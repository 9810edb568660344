"""Analysis of records: comparisons, statistics, tables, published values and the report.

The modules read the files that cells leave. They never import torch, and they change nothing in a folder of runs.
"""
