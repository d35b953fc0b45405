"""The engines that run compiled graphs, and what they share."""
