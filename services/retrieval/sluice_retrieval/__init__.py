"""Corpora, ingestion, chunking and search of a Sluice mesh."""
