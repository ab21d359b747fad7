"""Mutated dumps, and the claim for each of them: it ends soon, in a picture or one sentence.

Hypothesis chooses the cases, and simplifies those that fail. A case is a few numbers and names,
so that it can be kept and made again at any time: see `Case`. `python -m tests.fuzz` runs many;
tests/fuzz/test_fuzz.py runs a fixed few, and every case that ever failed (regressions.json).
"""
