"""Conversations: what was asked and answered, kept in order, and told to the model again."""
