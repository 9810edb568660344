"""Images from disk to a batch of views on the device.

No network and no teacher. What is drawn at random is a pure function of seed, epoch and image.
"""
