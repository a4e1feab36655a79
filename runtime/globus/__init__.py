"""Globus: whose cloud, which credentials, who is in the group."""
