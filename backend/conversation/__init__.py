"""A conversation: what its client says and hears, and what the model makes of it."""
