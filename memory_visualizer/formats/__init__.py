"""The ways in which a dump holds physical memory, one module each; `dump.open_dump` chooses."""
