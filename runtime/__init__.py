"""How it runs: server, site, transports, stores, training."""
