"""Runs a whole mesh on one machine: every service a real process, watched, restarted and stopped in order."""
