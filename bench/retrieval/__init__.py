"""The benchmark of retrieval: whether searches find the right lines, and what indexing and searching cost.

Run it with `make bench-retrieval`. What is measured, and how, is in docs/performance.md.
"""
