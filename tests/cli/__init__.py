"""Tests of memory_visualizer.cli."""
