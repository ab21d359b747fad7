"""Real Linux guests with Debian's kernels, and the kernels' own records of every page.

A developer's tool, described in the README beside this file:

    python -m tests.guests make linux-6.12
    python -m tests.guests compare linux-6.12

Nothing here knows the reader: `compare` runs `memviz` as a user does, and compares its output with
the records of the guest's kernel.
"""
