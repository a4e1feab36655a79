"""What was spent, over all experiments, in a file that knows when it is an old copy of itself.

- `entry`        one line: canonical JSON that names the line before it by digest
- `table`        the file: SQLite that only grows, one writer at a time
- `book`         what the lines say together: populations, datasets, runs, tickets
- `orders`       what a site asks: a run's whole budget, one release of it
- `rules`        what may be written next
- `balance`      what a population has spent, and whether it can pay for more
- `anchor`       the place outside the disk that knows the newest head; `path_anchor` is a file
- `ledger`       all of it: `Ledger`
- `recovery`     what an officer declares after a loss

Guaranteed: a debit is durable before its release; once per ticket, through repeats, crashes and restarts; two federations, or two
sites of an institution, cannot both have the last of a budget; a file that is older than its anchor is refused.

Not handled: the price (`privacy.accounting`); what becomes of a release (`runtime.site`); a ledger without an anchor, whose
restored backup nobody notices: NOT COVERED, and reports say so. The ledger holds names, terms and prices: no data, no counts of
records.
"""
