"""Processes of our own for work that must not hold up the service: vectors, and reading and cutting sources."""
