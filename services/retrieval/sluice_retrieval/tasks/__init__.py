"""Long work: its state, its events and who watches."""
