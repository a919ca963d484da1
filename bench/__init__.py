"""The streaming benchmark: what a request and a token cost, and how late tokens arrive.

`python -m bench` (or `make bench`) starts a mock upstream and, in front of it, each path to compare; loads them with
the scenarios of docs/performance.md in interleaved rounds; and writes every measurement as a line of JSON and a summary
as Markdown. Everything runs on loopback, and every load is bounded in count and time.

CPU is user and system time of a path's whole process tree, from /proc, divided by requests or tokens: on a busy machine
that is steadier than wall time. Even so, compare within one run only, best as ratios within a round.
"""
