"""A federation inside another program: three sites, each with its own data, keys and process. Run: python embed.py FOLDER."""

import sys
from pathlib import Path

import numpy as np

from counterseal import found_federation, run_federation
from counterseal.runtime.config import LoaderConfig, load_run
from counterseal.runtime.training.arrays import write_arrays
from counterseal.runtime.training.seam import Arrays


def examples(seed: int) -> Arrays:
    """Return 200 points in the plane, labelled by the side of a line on which they lie."""
    x = np.random.default_rng(seed).normal(size=(200, 2)).astype(np.float32)
    return Arrays(x, (x[:, 0] + x[:, 1] > 0).astype(np.int64))


run = load_run(Path(__file__).with_name("embed.yaml"))
sites = ("site-a", "site-b", "site-c")
loaders = {site: LoaderConfig(entry_point="arrays", folder=Path("data")) for site in sites}
founded = found_federation(Path(sys.argv[1]), sites, run=run, loaders=loaders)
for number, site in enumerate(sites):
    write_arrays(founded.site_configs[site].parent / "data", train=examples(number), test=examples(number + 100))

result = run_federation(founded.server_config)
print(
    f"{result.outcome}: {result.versions} versions, {result.leaves} leaves, cosigned by {', '.join(result.cosigners)}"
)
for site, metrics in (result.final or {}).items():
    print(f"{site}: {metrics}")
