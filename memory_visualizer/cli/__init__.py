"""The commands: `memviz`, and the code that it shares with `imagegenerator.py`."""
