"""The maths of sampling, in numpy only: schedulers, guidance and noise."""
