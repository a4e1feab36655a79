"""Recomputing commits from the sealed inputs, as the auditor."""
