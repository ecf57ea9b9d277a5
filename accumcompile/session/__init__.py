"""A step's options, and its state from call to call."""
