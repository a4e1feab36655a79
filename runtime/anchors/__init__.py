"""Anchors of the ledger outside its own disk: an S3 object under lock, a PKCS#11 token."""
