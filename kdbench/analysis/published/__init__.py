"""Published accuracies with their sources, as selections, tables and a ledger beside our own.

They stay apart from our results: no rank and no test mixes the two.
"""
