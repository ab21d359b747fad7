"""Dumps of unknown systems: address spaces by their structure alone, and contents."""
