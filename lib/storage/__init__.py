"""Bytes by URI: local paths and Google Cloud Storage behind one object, and folders that are complete or do not count."""
