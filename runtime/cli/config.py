"""`counterseal config`: schemas for editors, checks, and examples that load as they are."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import JsonFlag, emit, fields

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write and check configuration files.")


class Kind(StrEnum):
    """The three files that people write."""

    run = "run"
    site = "site"
    server = "server"


Which = Annotated[Kind, typer.Argument(metavar="run|site|server", help="Which file.")]


@app.command()
def schema(kind: Which) -> None:
    """Print the JSON Schema of a configuration file, for an editor that helps.

    Example: counterseal config schema site > site.schema.json
    """
    from ..config import json_schema

    emit(json_schema(kind.value))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file.")],
    kind: Annotated[Kind, typer.Option(help="What it should be.")],
    as_json: JsonFlag = False,
) -> None:
    """Check a configuration file; every problem is told with its line. Nothing that it names is opened, but for a run's file.

    Example: counterseal config check site.yaml --kind site
    """
    from ..config import load_run, load_server, load_site

    load: dict[Kind, Any] = {Kind.run: load_run, Kind.site: load_site, Kind.server: load_server}
    found = load[kind](file)
    about = _about(kind, found)
    emit({"file": str(file), "kind": kind.value, **about}) if as_json else fields({"ok": str(file), **about})


@app.command()
def example(kind: Which) -> None:
    """Print a commented example, complete and valid.

    Example: counterseal config example run > run.yaml
    """
    typer.echo(_EXAMPLES[kind], nl=False)


def _about(kind: Kind, found: Any) -> dict[str, object]:
    run = {Kind.run: lambda: found, Kind.server: lambda: found.run_config}.get(kind, lambda: None)()
    about: dict[str, object] = {} if kind is Kind.run else {"identity": found.identity}
    if run is not None:
        about |= {"run": run.name, "rounds": run.rounds, "digest": run.digest}
    return about


_RUN = """\
# One training, as every member sees it: it is written into the log. No path, address or secret belongs here.
name: heart-1
seed: 1                     # all ordinary randomness follows from it
rounds: 20
model:
  name: mlp                 # logistic, linear, mlp, cnn, or a plug-in that every site approved
  parameters: {inputs: 13, classes: 2, hidden: [32]}
trainer:
  name: torch               # or numpy-linear (logistic and linear models; needs no torch)
  optimizer: {name: sgd, parameters: {lr: 0.5}}
  steps: 8                  # of a round; without privacy also epochs: N
  batch_size: 64            # under dp-sgd: how many records are computed at once, nothing else
  metrics: [{name: accuracy}]
aggregation:
  rule: norm-clipped-fedavg # fedavg, iiadmm, iceadmm
  clip_norm: 10.0           # the largest L2 norm with which one update counts
minimum_sites: 2            # fewer updates abort the round
round_seconds: 600          # its deadline
evaluation:
  sites: false              # exact metrics of a site: only without privacy
  server: false
privacy:                    # without this block updates leave the sites exactly as computed
  terms:                    # literal numbers, written down without looking at anybody's data
    mechanism: dp-sgd       # or output-gaussian, output-laplace: the site as a whole
    unit: patient           # what the loaders make one record of
    adjacency: add-remove
    clip_norm: 1.0          # of one record's gradient
    noise_multiplier: 1.1   # what it comes to: `counterseal ledger price run.yaml`
    delta: 1.0e-5
    releases: 20            # updates of one site at most: at least the rounds
    steps: 8
    sampling_rate: 0.1      # the chance of each record to be in a step
    normaliser: 25          # a public number, about the expected batch
"""

_SITE = """\
# One institution's runtime. It stays here; relative paths start at this file's folder.
identity: site-1                 # as in the charter and the group
charter: charter                 # the folder of the signed charter
keys: keys                       # 0700, made with `counterseal keys new`
passphrase: {file: passphrase}   # 0600; or {environment: NAME}, or {command: [program, argument]}
state: state                     # must survive restarts; a local disk
store: {kind: directory, path: ../store}
# store: {kind: s3, bucket: our-federation, endpoint_url: "https://s3.example", region: eu-central-1}
roster: roster.yaml              # who is an active member; where the charter's group is one of Globus, instead of it:
# globus: {client_id: 00000000-0000-4000-8000-000000000001, tokens: globus-tokens.db}  # then `counterseal login`
loader:
  file: loader.py                # `load(parameters)` returns a SiteData
  sha256: "0000000000000000000000000000000000000000000000000000000000000000"  # counterseal plugin digest loader.py
  folder: data                   # handed to the loader as parameters["folder"]
privacy:
  ledger:
    path: ledger/ledger.sqlite   # a local disk; `counterseal ledger create` makes it
    anchor: {kind: path, path: /mnt/other-disk/site-1.mark}  # or s3-object-lock, pkcs11: what notices an old copy
  population: patients           # whose budget: `counterseal ledger cap`
  dataset: ward-7                # these data: `counterseal ledger map`
  unit: patient
# policy: site.cedar             # by default what `counterseal policy default` prints
# unprotected: true              # take part in runs without privacy, whose updates leave exactly as computed
"""

_SERVER = """\
# The federation's server. Relative paths start at this file's folder.
identity: server                 # the member that the charter names as its server
charter: charter
keys: keys                       # made with `counterseal keys new --operator`
passphrase: {file: passphrase}
state: state
log: log                         # the transparency log: publish it, or hand out copies
store: {kind: directory, path: ../store}
roster: roster.yaml              # or, where the charter's group is one of Globus:
# globus: {client_id: 00000000-0000-4000-8000-000000000001, client_secret: {file: globus-secret}}
transport:
  kind: local                    # sites as processes of this machine
  sites:
    site-1: ../site-1/site.yaml
    site-2: ../site-2/site.yaml
run: run.yaml                    # or the run itself, written here
"""

_EXAMPLES = {Kind.run: _RUN, Kind.site: _SITE, Kind.server: _SERVER}
