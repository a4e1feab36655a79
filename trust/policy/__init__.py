"""The site's policy in Cedar: what the institution allows, in its own words."""
