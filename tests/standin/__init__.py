"""A stand-in for Globus' cloud, for tests."""
