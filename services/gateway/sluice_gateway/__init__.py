"""The gateway of Sluice: the one public door.

- `services/`: the RPCs it serves itself, one module each; `forward` passes the rest on to their owners
- `pipeline/`: how one answer is made: admit → plan → ground → attempt → relay → settle
- `responses/`: a response, its log of numbered events, and those who watch it
- `integrations`: the adapters, in their own processes or in this one
- `records`: what is written down: responses and attempts
- `service`: wires all of it together
"""
