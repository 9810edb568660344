"""What came out: records, comparisons, statistics, tables, published values, report.

Reads the files that cells left; never imports torch, and trains or changes nothing.
"""
