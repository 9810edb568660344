"""Statistics of paired differences and of ranks: numbers in, numbers out.

No record, no table and no pandas.
"""
