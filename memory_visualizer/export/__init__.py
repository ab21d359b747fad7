"""What a snapshot tells, handed on: tables, JSON, the text page map."""
