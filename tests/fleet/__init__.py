"""Tests of the fleet: many dumps, and large ones, on many machines."""
