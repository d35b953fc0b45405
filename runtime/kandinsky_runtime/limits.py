"""The limits of one run, whoever asks for it."""

MIN_SIZE = 64
"""The smallest height and width of a result, in pixels."""
MAX_PIXELS = 89_478_485
"""The most pixels of a picture: Pillow's own limit, a quarter of a gigabyte as RGB."""
MAX_RESULTS = 1024
"""The most results of one run: the UNet works on all of them at once."""
MAX_SEED = 2**64 - 1
