"""Sites in forked processes behind the engine's own `LocalTransport`.

The nursery is a process of one thread, forked before the server starts any: it forks a site whenever the transport asks for
one, also after the server has threads. It gets the two ends of the site's pipes over a socket; a third pipe, held open by the
site alone, tells the server when the site is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import BinaryIO

from counterseal.runtime.site.site import Site
from counterseal.runtime.site.worker import serve

_GRACE = 10.0

Opener = Callable[[str], contextlib.AbstractContextManager[Site]]


class Nursery:
    """Forks sites on request; ``open_site`` runs in the new process."""

    def __init__(self, open_site: Opener) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._ours.close()
            with contextlib.suppress(BaseException):
                _keep(theirs, open_site)
            os._exit(0)
        theirs.close()

    def start(self, site: str) -> Forked:
        """Start a process of ``site``: what `LocalTransport` asks for."""
        down, up, life = os.pipe(), os.pipe(), os.pipe()
        given = [down[0], up[1], life[1]]
        socket.send_fds(self._ours, [site.encode()], given)
        for descriptor in given:
            os.close(descriptor)
        return Forked(os.fdopen(down[1], "wb"), os.fdopen(up[0], "rb"), life[0])

    def close(self) -> None:
        """End the nursery."""
        self._ours.close()
        os.waitpid(self.pid, 0)


class Forked:
    """A site's process, as `LocalTransport` knows it."""

    def __init__(self, stdin: BinaryIO, stdout: BinaryIO, life: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self._life = life

    def end(self) -> None:
        """Close the pipes and wait until the process is gone."""
        with contextlib.suppress(OSError):
            self.stdin.close()
        readable, _, _ = select.select([self._life], [], [], _GRACE)
        os.close(self._life)
        self.stdout.close()
        if not readable:
            raise TimeoutError("a site's process did not end with its input")


def _keep(requests: socket.socket, open_site: Opener) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    while True:
        name, descriptors, _, _ = socket.recv_fds(requests, 200, 3)
        if not name:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with contextlib.suppress(BaseException):
                _serve(open_site, name.decode(), *descriptors)
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _serve(open_site: Opener, name: str, down: int, up: int, life: int) -> None:
    with os.fdopen(down, "rb") as source, os.fdopen(up, "wb") as sink, open_site(name) as site:
        serve(site, source, sink)
    os.close(life)
