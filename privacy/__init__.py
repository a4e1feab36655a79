"""What it costs: clipping, noise, accounting, the site's ledger."""
