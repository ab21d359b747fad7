"""Tests of memory_visualizer.viewer."""
