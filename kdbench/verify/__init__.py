"""Check finished cells: their files against each other, their weights on the test set, their first epochs anew."""
