"""Tests of memory_visualizer.formats.containers."""
