"""Which loop computes what, and what that costs."""
