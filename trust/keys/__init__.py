"""Keys by use, their statements, their custody."""
