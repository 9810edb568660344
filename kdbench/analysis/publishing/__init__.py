"""Folders of results that are published: how they are written, checked and shown on one page."""
