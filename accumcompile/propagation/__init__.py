"""A placement and a stage for every value of a graph."""
