"""How fast a bundle runs on this machine: `k22 bench`."""
