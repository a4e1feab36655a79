"""`counterseal demo`: a whole federation on this machine, from founding to a verified log and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .output import JsonFlag, console, emit, jsonable, plain

if TYPE_CHECKING:
    from ..demo.settings import DemoSettings

__all__ = ["demo"]


Data = Annotated[
    Literal["digits", "breast-cancer", "fashion-mnist"], typer.Option(help="The data; nothing is downloaded.")
]
DataPath = Annotated[Path | None, typer.Option(help="The folder of fashion-mnist's four IDX files.")]
Model = Annotated[
    Literal["logistic", "mlp", "cnn"] | None, typer.Option(help="The model; by default cnn for images, else mlp.")
]
Sites = Annotated[int, typer.Option(min=1, max=26, help="How many sites.")]
Rounds = Annotated[int | None, typer.Option(min=1, max=1000, help="How many rounds; by default enough for the data.")]
Store = Annotated[
    Literal["directory", "s3"], typer.Option(help="Where sealed blobs lie; s3 starts a private SeaweedFS.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="A new folder, or one to go on in; by default counterseal-demo, or counterseal-demo-2, -3, ... if it is taken."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides partition, model and order of examples.")]
Algorithm = Annotated[
    Literal["fedavg", "iiadmm", "iceadmm"], typer.Option(help="Federated averaging, or one of two ADMMs.")
]
Privacy = Annotated[
    Literal["dp-sgd", "output-gaussian", "output-laplace", "central"] | None,
    typer.Option(help="How releases are made private; dp-sgd if only --epsilon is given. central trusts the server."),
]
Epsilon = Annotated[
    float | None, typer.Option(help="What all rounds together may say of one unit; 8 if only --privacy is given.")
]
Suite = Annotated[Literal["MLKEM768_X25519", "P384", "MLKEM1024_P384"], typer.Option(help="How blobs are sealed.")]


def demo(
    dataset: Data = "digits",
    data_path: DataPath = None,
    model: Model = None,
    sites: Sites = 4,
    rounds: Rounds = None,
    store: Store = "directory",
    out: Out = None,
    seed: Seed = 7,
    algorithm: Algorithm = "fedavg",
    privacy: Privacy = None,
    epsilon: Epsilon = None,
    suite: Suite = "MLKEM768_X25519",
    as_json: JsonFlag = False,
) -> None:
    """Found a federation of four sites, train, verify its log, and write report.html.

    Every site has its own process, folder, keys and unlike data; the result is compared with what each site reaches alone
    and with a centralised model. Exit code 1 if the run was aborted or the log does not verify.

    With --epsilon (or --privacy) every site adds noise to what it releases and keeps a ledger of what that cost; the comparisons
    stay unprotected, and say so. With --privacy central the server adds it, and sees every update: only models are protected.

    Example: counterseal demo --dataset breast-cancer --model logistic --store s3

    Example: counterseal demo --algorithm iiadmm --epsilon 8
    """
    from pydantic import ValidationError

    from ..demo.settings import DemoSettings

    try:
        settings = DemoSettings.of(
            dataset=dataset,
            data_path=None if data_path is None else str(data_path.expanduser().absolute()),
            model=model,
            sites=sites,
            rounds=rounds,
            store=store,
            seed=seed,
            suite=suite,
            algorithm=algorithm,
            privacy=privacy,
            epsilon=epsilon,
        )
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    from ..demo.play import free_folder

    if not _play(settings, out or free_folder(settings, Path("counterseal-demo")), as_json):
        raise typer.Exit(1)


def _play(settings: DemoSettings, out: Path, as_json: bool) -> bool:
    from ..demo.document import document
    from ..demo.keep import keep
    from ..demo.play import DataReady, DemoEvent, play
    from ..demo.screen import Screen

    counts: dict[str, tuple[int, ...]] = {}

    with Screen(console(errors=as_json)) as screen:

        def observe(event: DemoEvent) -> None:
            if isinstance(event, DataReady):
                counts.update(event.counts)
            screen.show(event)

        result = play(settings, out, observe=observe)
        report = keep(result, out)
        screen.finish(result, report)
    if as_json:
        emit(jsonable(document(result, report, counts)))
    if not result.good:
        typer.echo(f"the demonstration failed: {plain(result.run.reason or 'the log does not verify')}", err=True)
        said = result.founded.folder / "server" / "state" / "sites"
        typer.echo(f"what the sites' processes said is in {plain(said)}", err=True)
    return result.good
