"""Provider adapters of a Sluice mesh: one servicer, one small file per wire format."""
