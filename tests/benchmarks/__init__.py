"""Measurements side by side, in one run. None of them can fail a test."""
