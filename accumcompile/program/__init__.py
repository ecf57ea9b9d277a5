"""From a schedule to a program with loops, and how it runs."""
