"""The site: checks, trains, seals, answers."""
