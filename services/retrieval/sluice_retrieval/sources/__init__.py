"""Where texts come from, and which of their files count."""
