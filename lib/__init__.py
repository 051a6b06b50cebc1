"""Tissue images from storage to trained, evaluated and explained classifiers; see README.md in this folder."""

__version__ = "0.1.0"
