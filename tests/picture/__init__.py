"""Tests of memory_visualizer.picture."""
