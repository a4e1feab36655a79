"""The endpoint kit: what a site needs to run a Globus Compute endpoint that does nothing but answer deliveries."""
