"""One delivery in, one answer out: what a launcher starts for each task of Globus Compute, once per delivery.

Whatever happens, exactly one JSON `Answer` is written to standard output and the exit status is 0: on the other side of the
launcher stands a function that sends what it reads to the server. So nothing but an answer may be there, and no
traceback. A site whose state another process holds answers ``busy`` after a short wait, and the delivery comes again; a
site that cannot be opened answers ``site_unavailable``. Why is in the site's own log file, ``answers.log`` in its state
folder, and on its standard error; it does not leave.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from logging.handlers import RotatingFileHandler
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
    """Answer the delivery on standard input on standard output; whatever else prints goes to standard error."""
    sink = _take_stdout()
    delivery = sys.stdin.buffer.read(DELIVERY_LIMIT + 1)  # one byte more than is allowed: the site refuses it itself
    answer = answer_once(open_site, delivery)
    with sink:
        sink.write(answer + b"\n")


def log_to(folder: Path) -> None:
    """Write this package's log to ``answers.log`` in ``folder`` as well; a folder that cannot be written stops nothing.

    For the rest of the process, which answers one delivery.
    """
    with suppress(OSError):
        path = make_folder(folder, 0o700) / "answers.log"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("counterseal").addHandler(handler)


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
