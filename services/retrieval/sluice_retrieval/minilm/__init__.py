"""The local embedding model, all-MiniLM-L6-v2: opt-in, on the processor, without a network."""
