"""The one function that is registered with Globus Compute: it hands a delivery to a site's launcher, and its answer back.

It is registered once, as its own source text (the SDK's `PureSourceTextInspect`). Of the SDK's ways to send code this is
the one without a pickle in it: a byte-code pickle breaks between Python versions, and a source text in a pickle would make
every site unpickle. So a site can allow exactly JSON for data and this for code (`allowed_serializers`), and its
administrator can read what it lists.

What it does is to start the program that the endpoint's own configuration names (`COUNTERSEAL_SITE`). It brings no
counterseal, no configuration and no path with it, needs nothing but the standard library, and knows nothing about training.
Delivery and answer cross as base64, since JSON within JSON within JSON grows with every quotation mark, and Compute carries
10 MiB. What goes wrong becomes one of the codes in `FAILURES`: an exception's text would travel to the server as it stands.
The launcher's standard error stays where the endpoint keeps its own.
"""

from __future__ import annotations

__all__ = ["FAILURES", "deliver"]

FAILURES = frozenset({"delivery_damaged", "site_died", "site_not_configured", "site_not_started"})
"""What the function says when there is no answer."""


def deliver(delivery: str) -> str:
    """Hand a delivery (base64) to this site's counterseal; return ``{"answer": base64}`` or ``{"failure": code}``."""
    import base64
    import json
    import os
    import subprocess
    from pathlib import Path

    limit = 6_000_000
    failure = "delivery_damaged"
    try:
        data = base64.b64decode(delivery, validate=True)
        failure = "site_not_configured"
        launcher = Path(os.environ.get("COUNTERSEAL_SITE", ""))
        if launcher.is_absolute() and launcher.is_file():
            failure = "site_not_started"
            done = subprocess.run([str(launcher)], input=data, stdout=subprocess.PIPE, check=False)
            failure = "site_died"
            if done.returncode == 0 and 0 < len(done.stdout) <= limit:
                return json.dumps({"answer": base64.b64encode(done.stdout).decode("ascii")})
    except Exception:  # noqa: BLE001, S110 - whatever it says may be about patients: the code is all that leaves
        pass
    return json.dumps({"failure": failure})
