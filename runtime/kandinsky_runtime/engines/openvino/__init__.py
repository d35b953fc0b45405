"""OpenVINO on the CPU, with the graph rewrites that make it fast."""
