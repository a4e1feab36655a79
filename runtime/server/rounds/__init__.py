"""A round: admission, the aggregate, the commit, and what is said of every update."""
