"""Search settings with the same budget for every method: trials, the choice among them, and what is said of it."""
