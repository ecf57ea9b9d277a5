"""Where a line of the user's is, and every message of ours about it."""
