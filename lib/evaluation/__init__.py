"""Predictions of a model, and the numbers and plots made from them."""
