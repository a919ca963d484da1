"""What every service of Sluice shares: the server, channels, errors, configuration, identity and logs.

The modules, each named for its thing:

- `errors`: the one table of reasons, codes and exceptions
- `rpc`: the wrapper around every handler; `call`: what a handler knows of its call
- `server`: one bootstrap for every service; `main` turns it into a process
- `channels`: pooled channels to other services, with deadline and identity passed on
- `pump`: moves a stream of messages from an upstream call, bounded and cancel-safe
- `ports`: what the gateway asks of a model adapter, whatever the transport
- `config`, `secrets`: the frozen configuration from `sluice.yaml`
- `identity`, `auth`, `roles`: who calls and what they may do
- `fold`: events folded into an answer
- `ids`: random identifiers
- `logs`: structured, redacted logs
- `testing`: a whole mesh in one process, for tests
"""
