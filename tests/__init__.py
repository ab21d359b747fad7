"""The tests, and what they are made with: synthetic dumps, a simple walker, Volatility plugins."""
