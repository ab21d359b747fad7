"""Tests of memory_visualizer.leads."""
