"""The `sluice` command: starts a mesh on one machine, and is a client of any mesh.

Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted (143 where SIGTERM did it).
"""
