"""Every promise, by name."""
