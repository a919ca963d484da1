"""From a question to passages, and from passages back to the lines they came from."""
