"""Draw what papers print: each plot as a figure, from a comparison and the files of its cells."""
