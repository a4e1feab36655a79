"""Deliveries through Globus Compute."""
