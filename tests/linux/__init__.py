"""Tests of memory_visualizer.linux."""
