"""Tests of visualizer.sh."""
