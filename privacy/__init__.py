"""What it costs: clipping, noise, accounting, the site's ledger. Nothing here yet: this version claims no epsilon anywhere."""
