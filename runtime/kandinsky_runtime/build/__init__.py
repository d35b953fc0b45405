"""Compile a bundle's graphs for this machine before they are run: `k22 build`."""
