"""Keras `fit` on one or many Ray workers."""
