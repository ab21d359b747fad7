"""Tests of the difference of two dumps."""
