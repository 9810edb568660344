"""Data: published values and results. Installed as ``kdbench.results`` with the published values alone."""
