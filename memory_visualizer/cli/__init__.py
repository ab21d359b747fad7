"""The commands: `memviz`, and what it shares with `imagegenerator.py`."""
