"""The tests and their tools: synthetic dumps, a simple walker, Volatility plugins."""
