"""The batch: among a step's arguments, and among the outputs of our graphs."""
