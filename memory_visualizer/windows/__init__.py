"""Windows: whose address spaces a dump holds, and which processes."""
