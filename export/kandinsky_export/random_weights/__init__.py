"""Checkpoints with random weights (seeded), and the inputs that go with them."""
