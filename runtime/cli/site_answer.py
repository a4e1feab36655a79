"""`counterseal site answer`: what an endpoint's launcher runs, once per delivery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..site.site import Site

__all__ = ["answer"]


def answer(
    config: Annotated[Path, typer.Option("--config", "-c", help="The site's YAML file.")],
    patience: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds to wait for another process of this site.")
    ] = 5.0,
) -> None:
    """Answer the one delivery on standard input with one JSON answer on standard output, whatever happens.

    Exit code 0 even then: what went wrong is a code in the answer, and the reason is in the site's answers.log.

    Example: counterseal site answer --config site.yaml < delivery.json > answer.json
    """
    from ..site.answering import answer_standard_streams

    answer_standard_streams(lambda: _open(config, patience))


def _open(config: Path, patience: float) -> Site:
    from ..assembly import open_site
    from ..config import load_site
    from ..site.answering import log_to

    settings = load_site(config)
    log_to(settings.state)
    return open_site(settings, patience=patience)
