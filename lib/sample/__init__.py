"""The embedded sample: procedural TIFFs that look like stained tissue. Imports nothing of the rooms that read them."""
