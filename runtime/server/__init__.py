"""The server: opens rounds, admits updates, commits."""
