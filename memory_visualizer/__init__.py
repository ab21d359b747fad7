"""See what a machine's RAM holds: one pixel for each page of physical memory."""

__version__ = "0.1.0"
