"""Export of a snapshot: tables, JSON, the text page map."""
