"""Tests of memory_visualizer.export."""
