"""Linux: its kernel, its processes, and what it knows of each page."""
