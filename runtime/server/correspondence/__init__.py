"""What goes out to sites and comes back: tickets, receipts, errands, messages."""
