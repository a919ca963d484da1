"""What the service remembers: corpora, generations, documents and tasks, in SQLite."""
