"""Tests of memory_visualizer.snapshot."""
