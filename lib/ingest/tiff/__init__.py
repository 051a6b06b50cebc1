"""The bytes of a TIFF to 8-bit RGB, or a refusal with its reason."""
