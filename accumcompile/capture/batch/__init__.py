"""The batch: among a step's arguments, and in what our own graphs return."""
