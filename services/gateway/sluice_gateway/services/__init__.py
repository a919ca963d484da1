"""The RPCs the gateway serves itself, one module for each service of its contract."""
