"""The ledger: what a site has spent of the budget of its populations, over all experiments."""
