"""What the gateway writes down: responses and attempts, each from its start."""
