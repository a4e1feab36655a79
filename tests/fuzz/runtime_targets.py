"""Targets of `runtime`: grants, deliveries, answers, frames, configuration, IDX files, and a whole site."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from counterseal.runtime.config import RunConfig, ServerConfig, SiteConfig
from counterseal.runtime.config.document import read_model
from counterseal.runtime.delivery import DELIVERY_LIMIT, Answer, Delivery, Opening
from counterseal.runtime.demo.idx import read_idx
from counterseal.runtime.founding.draft import Request
from counterseal.runtime.sealed_json import Counted, Openings, open_openings, open_sealed, seal_opening
from counterseal.runtime.stores.grants import Grant
from counterseal.runtime.stores.s3_client import admitted
from counterseal.runtime.stores.s3_place import S3Place
from counterseal.runtime.transports.frames import read_frame, write_frame
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.documents import Model
from counterseal.trust.keys.sealing import OpeningKey

from .target import Target, require, same_model, taken
from .world import folder, vectors, world

__all__ = ["TARGETS"]

_PLACE = S3Place(endpoint_url="https://s3.example.org", bucket="models", prefix="fed", region="us-east-1")


def _grant(data: bytes) -> None:
    grant = taken(lambda: Grant.from_json(parse(data)))
    if grant is None:
        return
    same_model(grant)
    require(sum(part.length for part in grant.parts) == (grant.length or 0), "parts that do not make the object")
    require(".." not in grant.key.split("/") and not grant.key.startswith("/"), "a key that leaves the store")
    for part in grant.parts:
        require(len(part.url) < 30 or part.url not in repr(grant) + repr(part) + str(grant), "a secret URL is shown")
        found = taken(lambda part=part: admitted(grant, part, _PLACE))  # type: ignore[misc]
        if found is not None:
            require(
                part.url.startswith(f"https://s3.example.org/models/fed/{grant.key}?"), "a request to another place"
            )
            require(
                not any("\n" in name + value or "\r" in name + value for name, value in found[1].items()),
                "two headers in one",
            )


def _grant_seeds() -> list[bytes]:
    good = [json.dumps(one).encode() for one in vectors("store/grants.json")["good"]]
    granted = [one for raw in world().deliveries[:3] for one in json.loads(raw)["grants"].values() if one]
    query = "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k%2F20270115%2Fus-east-1%2Fs3%2Faws4_request" \
        "&X-Amz-Date=20270115T080000Z&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature=" + "0" * 64  # fmt: skip
    get = {
        "store": "s3", "method": "get", "key": "blobs/r1/0/global", "expires": 1_800_000_600,
        "parts": [{"number": 1, "url": "https://s3.example.org/models/fed/blobs/r1/0/global" + query}],
    }  # fmt: skip
    return [*good, *(json.dumps(one).encode() for one in [*granted, get])]


def _delivery(data: bytes) -> None:
    found = taken(lambda: Delivery.from_json(parse(data, limit=DELIVERY_LIMIT)))
    if found is not None:
        same_model(found)


def _answer(data: bytes) -> None:
    found = taken(lambda: Answer.from_json(parse(data, limit=DELIVERY_LIMIT)))
    if found is not None:
        same_model(found)


@cache
def _sealer() -> OpeningKey:
    return OpeningKey.generate("P384")


_SECRET = Opening(value={"loss": 1.5}, salt="0" * 64)


def _sealed(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    found = taken(lambda: open_sealed(text, _sealer(), purpose="metrics", federation="lung", ticket="0" * 64))
    require(found is None or found == _SECRET, "a changed message opens")


@cache
def _sealed_seeds() -> list[bytes]:
    place = {"federation": "lung", "ticket": "0" * 64}
    metrics = seal_opening(_SECRET, _sealer().public, purpose="metrics", **place)
    other = seal_opening(_SECRET, _sealer().public, purpose="coefficient", **place)
    return [metrics.encode(), other.encode()]


def _openings(data: bytes) -> None:
    """The auditor's openings: what is sealed, and (sealed to the fuzzer's own key) what may be inside."""
    require(taken(lambda: _open(data)) is None, "a changed message opens")
    info = canonical({"purpose": "counterseal-openings-v1", "federation": "lung", "run": "run-1", "version": 1})
    inside = _sealer().public.wrap(data, info)
    found = taken(lambda: _open(inside))
    if found is not None:
        same_model(found)


def _open(data: bytes) -> Openings:
    return open_openings(data, _sealer(), federation="lung", run="run-1", version=1)


@cache
def _openings_seeds() -> list[bytes]:
    counted = Counted(ticket="0" * 64, manifest="{}", coefficient=_SECRET, statistics=_SECRET)
    openings = Openings(layout={"format": "x", "tensors": []}, inputs=(counted,))
    return [canonical(openings.model_dump(mode="json")), b" " * 4096]


def _frame(data: bytes) -> None:
    source = io.BytesIO(data)
    again = io.BytesIO()
    while (frame := taken(lambda: read_frame(source))) is not None:
        require(len(frame) <= DELIVERY_LIMIT, "a frame over the limit")
        write_frame(again, frame)
        require(data.startswith(again.getvalue()), "a frame with two spellings")


def _config(model: type[Model]) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return
        found = taken(lambda: read_model(model, text, file="x.yaml", folder=Path("/federation")))
        if isinstance(found, RunConfig):
            same_model(found)
            require(RunConfig.from_json(parse(found.payload())) == found, "a run that its sites cannot read")

    return check


@cache
def _founded() -> Path:
    """Configuration files as a founding writes them: small, real, with the run in a file of its own."""
    root = folder()
    store = "store: {kind: directory, path: ../store}\n"
    party = "identity: site-a\ncharter: charter\nkeys: keys\npassphrase: {file: passphrase}\nstate: state\nroster: roster.yaml\n"
    loader = "loader:\n  entry_point: numbers\n  folder: ../data\n  parameters: {x: 1, 'y': [a, 1e-3]}\n"
    plugin = f"plugins:\n  - {{kind: model, name: own, file: own.py, attribute: build, sha256: {'a' * 64}}}\n"
    s3 = "store:\n  kind: s3\n  bucket: models\n  endpoint_url: http://127.0.0.1:8333\n  region: us-east-1\n  insecure_loopback: true\n"  # noqa: E501
    run = (
        "name: run-1\nseed: 7\nrounds: 3\nmodel: {name: mlp, parameters: {inputs: 4, classes: 2, hidden: [8]}}\n"
        "trainer:\n  optimizer: {name: adam, parameters: {lr: 1e-3}}\n  epochs: 1\n  metrics:\n    - name: accuracy\n"
        "aggregation: {clip_norm: 2.5}\nminimum_sites: 2\nevaluation: {sites: true, server: false}\n"
    )
    server = "log: log\ntransport:\n  kind: local\n  sites: {site-a: ../sites/a/site.yaml}\nrun: run.yaml\n"
    (root / "run").write_text(run)
    (root / "site").write_text(party + store + loader + plugin + "device: cuda:0\n")
    (root / "site-s3").write_text(party + s3 + loader)
    (root / "server").write_text(party + store + server)
    inline = "".join(f"  {line}\n" for line in run.splitlines())
    (root / "server-inline").write_text(party + store + server.replace("run: run.yaml\n", "run:\n" + inline))
    return root


def _config_seeds(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(_founded().glob(f"{name}*"))]


def _run_start(data: bytes) -> None:
    found = taken(lambda: RunConfig.from_json(parse(data)))
    if found is not None:
        same_model(found)
    request = taken(lambda: Request.from_json(parse(data)))
    if request is not None:
        same_model(request)


def _run_start_seeds() -> list[bytes]:
    from counterseal.tests.federation import run_config

    return [run_config().payload()]


def _idx(data: bytes) -> None:
    path = _idx_folder() / "images"
    zipped = path.with_name("images.gz")
    if data[:2] == b"\x1f\x8b":
        path.unlink(missing_ok=True)
        zipped.write_bytes(data)
    else:
        path.write_bytes(data)
    for dimensions in (1, 3):
        found = taken(lambda dimensions=dimensions: read_idx(path, dimensions=dimensions))  # type: ignore[misc]
        if found is not None:
            require(
                found.dtype == np.uint8 and found.ndim == dimensions and found.size > 0, "another array than asked for"
            )
            require(
                data[:2] == b"\x1f\x8b" or data == _idx_bytes(found.shape, found.tobytes()), "a file with two spellings"
            )


@cache
def _idx_folder() -> Path:
    return folder()


def _idx_bytes(shape: tuple[int, ...], body: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + body


def _idx_seeds() -> list[bytes]:
    plain = [
        _idx_bytes((2, 3, 4), bytes(range(24))),
        _idx_bytes((5,), b"hello"),
        _idx_bytes((1 << 20, 1 << 10, 1), b""),
    ]
    return [*plain, *(gzip.compress(one, mtime=0) for one in plain)]


TARGETS = (
    Target("grant", ("runtime/stores/grants.py", "runtime/stores/s3_client.py"), _grant_seeds, _grant, as_json=True),
    Target("delivery", ("runtime/delivery.py",), lambda: list(world().deliveries), _delivery, as_json=True),
    Target("answer", ("runtime/delivery.py",), lambda: list(world().answers), _answer, as_json=True),
    Target("sealed-opening", ("runtime/sealed_json.py",), _sealed_seeds, _sealed),
    Target("openings", ("runtime/replaying/exhibits.py",), _openings_seeds, _openings, as_json=True),
    Target(
        "frames",
        ("runtime/transports/frames.py", "runtime/transports/local.py"),
        lambda: [b'5\nhello0\n12\n{"a": "b c"}', b"1\n\n"],
        _frame,
    ),
    Target(
        "run-config",
        ("runtime/config/document.py", "runtime/config/run.py"),
        lambda: _config_seeds("run"),
        _config(RunConfig),
    ),
    Target(
        "site-config",
        ("runtime/config/site.py", "runtime/config/parts.py"),
        lambda: _config_seeds("site"),
        _config(SiteConfig),
    ),
    Target("server-config", ("runtime/config/site.py",), lambda: _config_seeds("server"), _config(ServerConfig)),
    Target(
        "run-start", ("runtime/config/run.py", "runtime/founding/draft.py"), _run_start_seeds, _run_start, as_json=True
    ),
    Target("idx", ("runtime/demo/idx.py",), _idx_seeds, _idx),
)
