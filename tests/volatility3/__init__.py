"""Tests of memory_visualizer.volatility3."""
