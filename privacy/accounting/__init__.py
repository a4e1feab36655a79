"""What releases cost: events, the stated epsilon of a run, the filter over all runs."""
