"""The analysis of a dump, as data and queries."""
