"""Founding a federation: charter folders, and all parties of one on one machine."""
