"""Mutated files of every kind that people bring: whether each one is read, or refused with an error of ours."""
