"""Tests of memory_visualizer.unknown."""
