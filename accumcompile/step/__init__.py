"""The user-facing step, decorated or compiled by backend name, and the order of compilation."""
