"""Reports on what was decided: facts, texts and files."""
