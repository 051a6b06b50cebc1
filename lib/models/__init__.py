"""Keras networks by name, and the model folder they are kept in."""
