"""What somebody can try who reaches an endpoint's folder, or who hopes that its administrator was careless."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from counterseal.errors import CountersealError
from counterseal.runtime.cli.doctor_endpoint import EndpointChecks
from counterseal.runtime.cli.site_endpoint import require_suitable
from counterseal.runtime.config import load_site
from counterseal.runtime.endpoint.folder import RECORD, write_folder
from counterseal.runtime.endpoint.kit import Kit

from .table import Row

__all__ = ["ENDPOINT"]

_TEMPLATE = "user_config_template.yaml.j2"
_SITE = """
identity: hospital-a
charter: charter
keys: keys
passphrase: {environment: PASSPHRASE}
state: state
store: {kind: directory, path: store}
loader: {entry_point: arrays, folder: data}
globus: {client_id: 22222222-2222-4333-8444-555555555555, tokens: tokens}
"""


def _kit(folder: Path) -> Kit:
    return Kit(
        profile="laptop",
        name="Ward 7",
        folder=str(folder),
        config="/srv/counterseal/site.yaml",
        function="6e9b1d5e-0c5e-4a39-8b5c-3d9f3d0c9a11",
        program="/opt/counterseal/bin/counterseal",
        daemon="/opt/endpoint/bin/globus-compute-endpoint",
        user="fedendpoint",
    )


def _harmed(harm: Callable[[Path], None], again: bool = False) -> Callable[[], str]:
    """Return what the doctor says of a folder after ``harm``, or the kit itself if it is to write ``again``."""

    def play() -> str:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve() / "ward"
            site = folder.with_name("site.yaml")
            site.write_text(_SITE)
            if not again:
                write_folder(_kit(folder))
            harm(folder)
            try:
                if again:
                    write_folder(_kit(folder))
                else:
                    EndpointChecks(load_site(site), None, folder).folder()
            except CountersealError as error:
                return error.code
        return "accepted"

    return play


def _edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return harm


def _link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir()
    folder.symlink_to(folder.with_name("elsewhere"))


def _others(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text("engine: {type: ThreadPoolEngine}\n")


def _environment() -> str:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "site.yaml"
        path.write_text(_SITE)
        try:
            require_suitable(load_site(path), path)
        except CountersealError as error:
            return error.code
    return "accepted"


def _row(number: int, who: str, attack: str, expected: str, play: Callable[[], str]) -> Row:
    return Row(f"P10-{number:03d}", "site", who, attack, expected, play)  # type: ignore[arg-type]


ENDPOINT: tuple[Row, ...] = (
    _row(40, "server", "An endpoint's template that takes the shell lines a server sends", "doctor",
         _harmed(_edited(_TEMPLATE, 'worker_init: "', 'worker_init: {{ worker_init }} # "'))),
    _row(41, "server", "An endpoint's schema that lets a server send options", "doctor",
         _harmed(_edited("user_config_schema.json", '"additionalProperties": false', '"additionalProperties": true'))),
    _row(42, "server", "A second allowed function", "doctor",
         _harmed(_edited("config.yaml", "heartbeat", '  - "99999999-9999-4999-8999-999999999999"\nheartbeat'))),
    _row(43, "server", "Arguments that a worker would unpickle", "doctor",
         _harmed(_edited(_TEMPLATE, "serialize.JSONData", "serialize.DillDataBase64"))),
    _row(44, "thief", "A configuration in Python beside the endpoint's, which the daemon would run", "doctor",
         _harmed(lambda folder: (folder / "config.py").touch())),
    _row(45, "thief", "A launcher that everybody can write", "doctor",
         _harmed(lambda folder: (folder / "deliver").chmod(0o777))),
    _row(46, "thief", "A launcher that hands over the daemon's environment, with the secret of its login", "doctor",
         _harmed(_edited("deliver", "/usr/bin/env -i", "/usr/bin/env"))),
    _row(47, "thief", "The endpoint's record changed so that calls run as root", "endpoint",
         _harmed(_edited(RECORD, '"user": "fedendpoint"', '"user": "root"'))),
    _row(48, "thief", "A link where the endpoint's folder is to be written", "endpoint", _harmed(_link, again=True)),
    _row(49, "thief", "Somebody's endpoint where the folder is to be written", "endpoint", _harmed(_others, again=True)),
    _row(50, "server", "A passphrase in the environment that a server's code would share", "endpoint", _environment),
)  # fmt: skip
"""Attacks on the folder from which the daemon starts what a server calls."""
