"""What is run: protocols, pairs, methods with their settings, and the cell that they make.

Values and names only. No images are loaded, no network is built and nothing is trained here.
"""
