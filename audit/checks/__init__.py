"""The obligations of `audit.verify`, by subject."""
