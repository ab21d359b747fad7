"""Files that wrap a file of any format: packed, split, or an image of a disk; see inside.py."""
