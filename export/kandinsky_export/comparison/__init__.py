"""Settings of one bundle compared with a baseline: same prompts, seeds and noise; measures that need no judge."""
