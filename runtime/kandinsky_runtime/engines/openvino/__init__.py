"""OpenVINO, with the graph rewrites that make it fast on the CPU."""
