"""Training at a site: arrays in, arrays out.

`seam` is the interface, `registry` gives names their meaning, `party` builds the trainers that a configuration describes.
Two trainers: `torch` (any registered model) and `numpy-linear` (linear models, loads no torch). Nothing here knows keys,
tickets or stores; nothing outside `torch_trainer`, `models`, `losses`, `optimisers`, `device`, `checkpoint` loads torch.

Guaranteed: equal inputs give equal bytes on the CPU of one machine; names, shapes and dtypes of parameters are kept; code
runs by registry name only, and a party's own plug-ins only if their digest is the approved one; after data was touched
every failure is `site_failed` and its text says nothing about them.

Not handled: privacy (see `privacy` and the site's policy: everything returned here is exact), and what an approved
plug-in does with the site's rights.
"""
