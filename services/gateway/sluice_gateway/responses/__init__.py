"""A response, its log of numbered events, and those who watch it."""
