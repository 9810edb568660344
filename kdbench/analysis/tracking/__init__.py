"""Send the metrics of cells to experiment trackers.

One file holds what all trackers share, and each tracker has a file that imports its package only when it is used.
"""
