"""Checks every rule of the table against its operator's behaviour. Checked on torch 2.13."""
