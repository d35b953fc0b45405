"""The limits of one run, for the Python functions and the command line alike."""

MIN_SIZE = 64
"""The smallest height and width of a result, in pixels."""
MAX_PIXELS = 89_478_485
"""The most pixels of a picture: the limit of Pillow, a quarter of a gigabyte as RGB."""
MAX_RESULTS = 1024
"""The most results of one run: the UNet processes all of them in one batch."""
MAX_SEED = 2**64 - 1
"""The largest seed."""
