"""The table's judge: every rule against what the operators do."""
