"""What a release costs, and what a site still has: clipping, noise, mechanisms, accounting, the ledger.

- `noise`       integers from a cipher whose distribution is known to 2^-100: discrete Gaussian, discrete Laplace, sampling masks
- `grid`        clip, round to a grid, check the integer norm: what makes a sensitivity true
- `mechanism`   clip, quantise, noise as one list of stages, the same at a site and at the server
- `output`      output perturbation whose sensitivity is enforced at release
- `central`     noise at the server, for many sites
- `counts`      noisy counts, in place of exact metrics
- `dpsgd`       per-record gradients under those rules (torch, opacus)
- `accounting`  events, the stated epsilon of a run, the filter over all runs (dp_accounting)
- `ledger`      what was spent, over all experiments, in a file that knows when it is an old copy of itself

Guaranteed here: a stated epsilon is an upper bound for the unit and adjacency that stand beside it, if records are independent
before clipping and the numbers were fixed without reading the data; each module says why. Not handled here, and by whom: who may
order a release (`trust.policy`), whether the server noised as it said (a site can only vouch for its own noise), what a
model says about people who are in nobody's data, side channels of the machine.

This package imports no sibling. torch, opacus and dp_accounting are loaded only by the modules that compute with them.
"""
