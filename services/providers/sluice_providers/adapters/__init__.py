"""One file per wire format; `sluice_providers.registry` lists them."""
