"""A step compared with the full batch, value by value."""
