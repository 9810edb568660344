"""Data sets, views and batches."""
