"""Real Linux guests, made from Debian's kernels, and their kernels' own word about every page.

A developer's tool, described in the README beside this file:

    python -m tests.guests make linux-6.12
    python -m tests.guests compare linux-6.12

Nothing here knows the reader: `compare` asks `memviz` as a user does, and holds its answer against
what the guest's kernel said of itself.
"""
