"""Tests of memory_visualizer.fleet."""
