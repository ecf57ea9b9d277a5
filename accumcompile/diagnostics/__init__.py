"""Finding the user's line, and every message about it."""
