"""The step as its user meets it, decorated or compiled by name, and the order in which the rooms are gone through."""
