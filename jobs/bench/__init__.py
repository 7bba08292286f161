"""Benchmarks: ratios taken in one run, ours to a baseline on the same machine, never bare times."""
