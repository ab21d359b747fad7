"""The formats of dumps, each in its own module; `opening.open_dump` chooses."""
