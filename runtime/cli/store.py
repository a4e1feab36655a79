"""`counterseal store`: the bucket of a federation, for the administrator who makes it and for the server that uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import JsonFlag, check_row, emit, plain

if TYPE_CHECKING:
    from ..config import S3StoreConfig, ServerConfig
    from ..stores.policy_documents import Bucket, Kind
    from .store_doctor import StoreDoctor

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Prepare and check the federation's S3 bucket.")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The server's YAML file.")]
_DAY = 86_400
_KINDS = ("iam", "bucket", "lifecycle", "lock", "cors")


@app.command()
def policy(
    config: ConfigOption,
    principal: Annotated[
        str | None, typer.Option(metavar="ARN", help="The server's user or role; the bucket's policy needs it.")
    ] = None,
    reader: Annotated[
        list[str] | None, typer.Option(metavar="ARN", help="Who else may read: an auditor. Repeatable.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="One of iam, bucket, lifecycle, lock, cors; by default all.")] = None,
    payload_days: Annotated[
        int | None, typer.Option(min=1, help="Days until a payload may go; by default the dispute window and the run.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the least-privilege documents for the bucket and prefix of a configuration. Nothing is sent.

    With --kind the document alone is printed, ready for the AWS command line.

    Example: counterseal store policy --config server.yaml --kind iam > iam.json
    """
    from ..config import load_server
    from ..stores.policy_documents import KINDS, documents

    if kind is not None and kind not in _KINDS:
        raise typer.BadParameter(f"not one of {', '.join(_KINDS)}", param_hint="--kind")
    if kind == "bucket" and principal is None:
        raise typer.BadParameter("the bucket's policy says who the server is", param_hint="--principal")
    for arn in (principal, *(reader or ())):
        if arn is not None and (not arn.startswith("arn:") or "*" in arn or not arn.isprintable() or " " in arn):
            raise typer.BadParameter("not the ARN of one user or role", param_hint="--principal")
    settings = load_server(config)
    bucket = _bucket(settings, _s3(settings), principal, tuple(reader or ()), payload_days)
    chosen: tuple[Kind, ...] = tuple(one for one in KINDS if kind in (None, one))
    found = documents(bucket, chosen)
    if as_json:
        emit(found[chosen[0]] if kind is not None else dict(found))
        return
    for name, document in found.items():
        if kind is None:
            typer.echo(f"# {name}")
        typer.echo(json.dumps(document, indent=2))
    for line in _notes(bucket, kind):
        typer.echo(plain(line), err=True)


def _bucket(
    settings: ServerConfig,
    store: S3StoreConfig,
    principal: str | None,
    readers: tuple[str, ...],
    payload_days: int | None,
) -> Bucket:
    from ..stores.policy_documents import Bucket

    return Bucket(
        name=store.bucket,
        prefix=store.prefix,
        amazon=_is_amazon(store.endpoint_url),
        region=store.region or "us-east-1",
        payload_days=payload_days or _window_days(settings),
        principal=principal,
        readers=readers,
        locks=store.retention_days is not None,
        kms=store.sse == "aws:kms",
        kms_key=store.sse_key if store.sse_key is not None and store.sse_key.startswith("arn:") else None,
        grant_seconds=store.grant_seconds or 7 * _DAY,
    )


def _is_amazon(endpoint: str | None) -> bool:
    from urllib.parse import urlsplit

    host = "" if endpoint is None else urlsplit(endpoint).hostname or ""
    return endpoint is None or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _window_days(settings: ServerConfig) -> int:
    """Return the charter's dispute window, and before it the longest that the run can take, in days."""
    import time

    from ..founding.charter_folder import read_charter_folder

    run = settings.run_config
    window = read_charter_folder(settings.charter, now=int(time.time())).charter.dispute_window_seconds
    return -(-(window + run.rounds * run.round_seconds * (run.retries + 1)) // _DAY)


def _notes(bucket: Bucket, kind: str | None) -> Iterator[str]:
    if not bucket.prefix:
        yield "note: no prefix, so these documents are about the whole bucket: let it be this federation's alone"
    if not bucket.amazon and kind in (None, "bucket", "iam"):
        yield "note: written for an S3 server that is not Amazon's: put-once and old signatures are left to the server"
    if bucket.principal is None and kind is None:
        yield "note: the bucket's policy is left out: name the server with --principal"
    if kind in (None, "lifecycle"):
        yield f"note: payloads go after {bucket.payload_days} days; disputes and replays need them until then"
    if kind in (None, "lock") and not bucket.locks:
        yield "note: retention_days is not configured, so the server locks nothing"


@app.command()
def doctor(config: ConfigOption, as_json: JsonFlag = False) -> None:
    """Try everything that a federation relies on in its bucket, one line each: OK, FAIL with what to do, or ??.

    Small probes (one of 16 MiB, twice) are put under doctor/ in the configured prefix, and removed. Exit code 1 if anything
    failed.

    Example: counterseal store doctor --config server.yaml
    """
    from ..config import load_server

    found = []
    with _doctor(_s3(load_server(config))) as checks:
        for check in checks.each():
            found.append(check)
            if not as_json:
                check_row(check.ok, check.name, check.what)
                if check.mend and check.ok is False:
                    typer.echo(f"      mend: {plain(check.mend)}")
    failed = any(check.ok is False for check in found)
    if as_json:
        emit({"ok": not failed, "checks": [asdict(check) for check in found]})
    if failed:
        raise typer.Exit(1)


@contextmanager
def _doctor(config: S3StoreConfig) -> Iterator[StoreDoctor]:
    from ..assembly import open_s3
    from .store_doctor import StoreDoctor

    store, wire = open_s3(config)
    try:
        yield StoreDoctor(store, wire)
    finally:
        wire.close()
        store.close()


def _s3(settings: ServerConfig) -> S3StoreConfig:
    from ..config import DirectoryStoreConfig
    from ..errors import ConfigError

    if isinstance(settings.store, DirectoryStoreConfig):
        raise ConfigError(
            "the store is a folder, and these commands are about S3",
            where="store.kind",
            remedy="counterseal site doctor looks at a folder.",
        )
    return settings.store
