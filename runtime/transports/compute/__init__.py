"""Deliveries to sites behind Globus Compute endpoints."""
