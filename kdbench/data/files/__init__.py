"""A data set of image files: found, named and listed once, without decoding what names alone can tell."""
