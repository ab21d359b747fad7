"""Mutated dumps, and what must hold for each of them: a picture or one sentence, and soon.

Hypothesis chooses the cases and makes those that fail simpler. A case is a few numbers and names,
so that it can be kept and made again at any time: see `Case`. `python -m tests.fuzz` runs many;
tests/fuzz/test_fuzz.py a fixed few, and every one that ever failed (regressions.json).
"""
