"""What was decided, for people: facts, texts and files."""
