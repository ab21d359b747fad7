"""Dumps of systems that are not known: address spaces by their form alone, and contents."""
