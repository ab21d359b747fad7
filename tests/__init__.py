"""The tests, and what they are made with: forged dumps, a simple walker, Volatility plugins."""
