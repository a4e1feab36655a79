"""The transparency log: tree, tiles, notes, checkpoints, proofs, the writer and the witness."""
