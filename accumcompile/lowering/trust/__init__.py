"""What is compiled is compared with what it was compiled of."""
