"""Signing in at vendors that want a person's consent, and keeping what that yields."""
