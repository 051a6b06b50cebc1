"""Bytes by URI, whatever serves them, and folders that are complete or do not count."""
