"""What is computed: aggregation rules and schedules. Pure: arrays and numbers in, arrays and numbers out.

- `arithmetic`  the weighted sum whose every bit anybody can recompute (docs/formats/arithmetic.md)
- `statistics`  the admission pass over one update: finiteness, norms, dot product, sketch
- `rule`        the seam of aggregation rules, their registry, site order
- `fedavg`      federated averaging, plain and norm-clipped (the default)
- `cohort`      all members of a round, present or not, and how their penalties adapt
- `consensus`   what IIADMM and ICEADMM share: released pairs, their replay, the server's minimiser
- `solver`      what a site trains with under them, instead of an optimiser
- `iiadmm`      ADMM in which only the primal travels; `iceadmm` ADMM in which primal and dual do
- `schedule`    who works, how long they are waited for, what is committed

Guaranteed here: results depend on values and on site order alone, never on arrival, chunks, threads or a clock; what cannot
be computed meets a typed error. Not handled here, and by whom: what may count (`trust.screening`), sealed bytes
(`trust.blob`), privacy (`privacy`: an update is released before it comes here), the log (`audit`), driving it all (`runtime`).
This package needs numpy and nothing else, so that an auditor can replay aggregates with little installed.
"""
