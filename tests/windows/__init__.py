"""Tests of memory_visualizer.windows."""
