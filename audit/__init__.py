"""What happened: events, Merkle log, checkpoints, witnesses, verification."""
