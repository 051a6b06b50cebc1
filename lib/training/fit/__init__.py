"""What one worker does, from loading its examples to the saved model."""
