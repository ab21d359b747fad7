"""Linux: the kernel, its processes, and its records of each page."""
