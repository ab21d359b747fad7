"""The code behind the plugins for Volatility 3."""
