"""Tests of memory_visualizer.paging."""
