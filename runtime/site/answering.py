"""One delivery in, one answer out: what a launcher starts for each task of Globus Compute, once per delivery.

Whatever happens, exactly one JSON `Answer` is written to standard output and the exit status is 0: on the other side of the
launcher stands a function that sends what it reads to the server. So nothing but an answer may be there, and no
traceback. A site whose state another process holds answers ``busy`` after a short wait, and the delivery comes again; a
site that cannot be opened answers ``site_unavailable``. Why is in the site's own log file, ``answers.log`` in its state
folder.

Standard error leads there too, as soon as the configuration is read: whoever started this process may be the account that a
server's code runs as (`--run-as`), and what a loader prints, which error it met and what the policy said are not for it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO

from ...durable import make_folder
from ...errors import CountersealError
from ...trust.canonical import canonical, parse
from ...trust.dsse import read
from ...trust.identifiers import sha256
from ..delivery import DELIVERY_LIMIT, Answer, Delivery, Fault
from ..errors import JournalError
from .worker import Handler

__all__ = ["answer_once", "answer_standard_streams", "log_to"]

_log = logging.getLogger(__name__)

_LOG_BYTES = 1 << 20

Open = Callable[[], AbstractContextManager[Handler]]
"""Opens the site."""


def answer_once(open_site: Open, delivery: bytes) -> bytes:
    """Return the answer to ``delivery``; never raises."""
    try:
        with open_site() as site:
            return site.handle(delivery)
    except JournalError as error:
        _log.warning("another process of this site is at work: %s", error)
        return _fault("busy", delivery)
    except CountersealError as error:
        _log.error("this site cannot be opened: %s", error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may do anything; the server learns one code
        _log.error("this site cannot be opened: %s", type(error).__name__, exc_info=error)
    return _fault("site_unavailable", delivery)


def answer_standard_streams(open_site: Open) -> None:
    """Answer the delivery on standard input on standard output; whatever else prints goes to standard error.

    ``open_site`` calls `log_to`, and from then on standard error is the site's log.
    """
    sink = _take_stdout()
    delivery = sys.stdin.buffer.read(DELIVERY_LIMIT + 1)  # one byte more than is allowed: the site refuses it itself
    answer = answer_once(open_site, delivery)
    with sink:
        sink.write(answer + b"\n")


def log_to(folder: Path) -> None:
    """Lead standard output and standard error to ``answers.log`` in ``folder``, or nowhere if it cannot be written.

    For the rest of the process, which answers one delivery: descriptors are led, so that libraries and plug-ins go along.
    """
    try:
        sink = _open_log(make_folder(folder, 0o700) / "answers.log")
    except OSError as error:
        _log.error("answers.log cannot be written (%s): what comes now is told to nobody", error.strerror)
        sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(sink, stream)
    os.close(sink)


def _open_log(path: Path) -> int:
    """Open the log, and begin a new one where it has grown long; one older is kept."""
    with suppress(FileNotFoundError):
        if path.lstat().st_size > _LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _take_stdout() -> BinaryIO:
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return sink


def _fault(code: str, delivery: bytes) -> bytes:
    return canonical(Answer(ticket=_ticket(delivery), fault=Fault(code=code)).model_dump(mode="json"))


def _ticket(delivery: bytes) -> str | None:
    """Return whose answer this is, where that can be read at all: an address, believed by nobody."""
    with suppress(CountersealError):
        found = Delivery.from_json(parse(delivery, limit=DELIVERY_LIMIT, what="delivery"))
        return sha256(read(found.ticket.encode()).payload)
    return None
