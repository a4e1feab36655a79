"""DP-SGD: the gradient of each record, clipped, rounded to a grid, summed as integers, noised, and only then a float.

- `layers`     which models may be trained: an allow-list by exact type, with what to use instead
- `hooks`      the gradient of each record, from Opacus' hooks, and nothing left behind on the model
- `selfcheck`  on synthetic records, before data is touched: are those gradients right, and each a function of one record?
- `gradients`  one step: micro-batches, grid, integer sum, noise, `p.grad`
- `sampling`   Poisson batches from the cipher
- `dropout`    masks from the cipher
- `losses`     a loss per record for sequences of tokens

Modules here load torch and opacus; nothing is imported by this file. Not handled here: what the noise is worth
(`privacy.accounting`), and who may order it (`trust.policy`, `privacy.ledger`).
"""
