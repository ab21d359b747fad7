"""Inside Volatility 3: what its plugins do."""
