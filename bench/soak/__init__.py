"""Whether a mesh that is used for long, by many and in every way, holds more at the end than at the beginning.

See docs/performance.md.
"""
