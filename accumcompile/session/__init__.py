"""What a step was asked for, and what it remembers."""
