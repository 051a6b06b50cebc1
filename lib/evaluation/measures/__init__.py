"""How good predictions are: every measure with its interval."""
