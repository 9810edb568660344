"""A frozen network on disk, and its outputs: live, or from a cache.

A teacher is described, found, measured and queried here. Nothing is trained, and no method is known.
"""
