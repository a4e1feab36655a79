"""Who may say so: keys, charter, tickets, sealed blobs, screening."""
