"""Published accuracies with their sources: selections, tables, and a ledger that compares them with our results.

Published values never enter a rank or a test of our results.
"""
