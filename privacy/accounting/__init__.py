"""What releases cost: events, the stated epsilon of a run, the filter over all runs.

- `events`      one mechanism, used a fixed number of times: numbers, unit, adjacency
- `statement`   events to one (epsilon, delta), by privacy loss distributions (needs dp_accounting)
- `calibrate`   (epsilon, delta) to a noise multiplier (needs dp_accounting)
- `rdp`         an event to a cost: numbers that add up, whoever chose the next event and why
- `filter`      which totals of costs stay within (epsilon, delta)

`rdp` and `filter` compute with the standard library alone: a ledger is read and checked where no extra is installed.
docs/accounting.md is the page for a statistician.
"""
