"""Comparison of a bundle with eager ppdiffusers: the reference, the figures, their report and their plot."""
