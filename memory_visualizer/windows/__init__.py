"""Windows: the address spaces and processes of a dump."""
