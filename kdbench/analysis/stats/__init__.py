"""Statistics of paired differences and of ranks.

All functions take and return plain numbers: no records, no tables, no pandas.
"""
