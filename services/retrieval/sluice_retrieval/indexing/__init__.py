"""From a source to a searchable generation."""
