"""The choice of one model from several, by training images alone."""
