"""The table's judge: every rule against what the operators do. Checked on torch 2.13."""
