"""Where vectors are kept: one interface, and the store on the local disk."""
