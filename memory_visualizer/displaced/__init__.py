"""Memory that is misplaced in its file, as in a raw file that leaves out the holes.

A raw file has no addresses. If a tool left out a hole, all memory after it lies too low: in a
renamed .vmem, or in a file that joins the ranges of a machine's memory. On Windows each top-level
page table names its own frame: the difference between this frame and the table's place in the file
is the distance by which it was moved, and many tables agree on it. A Linux kernel tells its own
address. Lower-level tables that are valid at one place only tell where a piece ends and the next
begins.
"""
