"""The group: what the site's own login at Globus, or its roster file, says of this site and of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from .doctor_check import Doubt, Fault

if TYPE_CHECKING:
    from ...trust.charter.signing import SignedCharter
    from ...trust.group import Authorizer, Decision, Role
    from ..config import GlobusConfig, SiteConfig
    from ..globus.credentials import Credentials

__all__ = ["GroupChecks"]

_LOGIN = "Run `counterseal login`; a service account needs its client_id and client_secret."
_MENDS = {
    "login_needed": _LOGIN,
    "outage": "Look at https://status.globus.org, the network and the proxy, and try again.",
    "rate_limited": "Globus asks to come later: try again in a minute.",
    "forbidden": "Ask the group's administrator to make this login's identity a member.",
    "not_visible": "Ask the administrator to let members see the members (`counterseal group status`).",
    "no_such_group": "Compare the charter's group.id with the group; a group that you are not in looks as if it were not there.",
    "not_a_member": "Ask the administrator for an invitation (`counterseal group invite`), and accept it.",
    "invited": "Accept the invitation at https://app.globus.org/groups.",
    "pending": "Ask the administrator to approve the request.",
    "wrong_role": "The server must be manager or admin of the group: ask the administrator.",
}


class GroupChecks:
    """The checks; ``charter`` is known once it was read."""

    def __init__(
        self, settings: SiteConfig, charter: Callable[[], SignedCharter | None], clock: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._charter = charter
        self._clock = clock
        self._authorizer: Authorizer | None = None

    def each(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield every check with its name."""
        if self._globus is None:
            yield "roster: this site", self.listed
            yield "roster: the server", self.server_listed
            return
        yield "globus: login", self.login
        yield "group: this site", self.listed
        yield "group: the server", self.server_listed
        yield "group: members", self.visible
        yield "group: policies", self.policies

    @property
    def _globus(self) -> GlobusConfig | None:
        """Return how Globus is asked, or None where the charter's group is a roster file."""
        charter = self._charter()
        if charter is not None and charter.charter.group.authorizer != "globus":
            return None
        return self._settings.globus if charter is not None or self._settings.roster is None else None

    def login(self) -> str:
        """Ask Globus whose login this is."""
        from ..globus.asking import asking

        with self._credentials() as credentials:
            client = credentials.auth()
            with asking("Globus Auth"):
                answer = client.userinfo()
                name, subject = str(answer["preferred_username"]), str(answer["sub"])
                identities = {str(one["sub"]) for one in answer.get("identity_set", ())} | {subject}
        if self._settings.identity not in identities:
            raise Fault(
                f"this is the login of {name} ({subject}), not of {self._settings.identity}",
                remedy="Log in as the site's identity, or correct `identity`.",
            )
        return f"Globus knows this login: {name}"

    def listed(self) -> str:
        """Ask about this site."""
        return self._ask(self._settings.identity, "site")

    def server_listed(self) -> str:
        """Ask about the server."""
        charter = self._charter()
        if charter is None:
            raise Doubt("who the server is cannot be said, as the charter does not hold")
        return self._ask(charter.charter.server, "server")

    def visible(self) -> str:
        """See that the members of the group are shown to this login."""
        from ..globus.groups import read_group

        charter = self._charter()
        if charter is None:
            raise Doubt("which group cannot be said, as the charter does not hold")
        with self._credentials() as credentials:
            found = read_group(credentials.groups(), charter.charter.group.id)
        if found.members is None:
            raise Fault("the group shows this login no members", remedy=_MENDS["not_visible"])
        known = {one.identity for one in charter.charter.members}
        missing = sorted(known - found.members.keys())
        if missing:
            raise Doubt(
                f"{len(found.members)} members are shown; of the charter's, these are not: {', '.join(missing)}"
            )
        return f"{found.name!r} shows its {len(found.members)} members, all {len(known)} of the charter among them"

    def policies(self) -> str:
        """See what the group asks of logins and of strangers."""
        from ..globus.groups import describe_group

        charter = self._charter()
        if charter is None:
            raise Doubt("which group cannot be said, as the charter does not hold")
        with self._credentials() as credentials:
            about = describe_group(credentials.groups(), charter.charter.group.id)
        if about.high_assurance is None or about.enforce_session is None:
            raise Doubt("the group's policies are not shown to this login")
        if about.high_assurance or about.enforce_session:
            age = "" if about.assurance_seconds is None else f" of at most {about.assurance_seconds} s"
            raise Doubt(
                f"the group asks for a fresh login{age}: no service account can give one, and a person's ends with it"
            )
        if about.join_requests:
            raise Doubt("strangers may ask to join the group; asking makes nobody a member")
        return f"{about.group_visibility} group, members shown to {about.members_visibility}, no fresh login asked for"

    def _credentials(self) -> Credentials:
        from ..globus.credentials import Credentials

        config = self._globus
        if config is None:
            raise Fault("no block globus is configured", remedy="See docs/configuration.md, Globus.")
        return Credentials.open(config)

    def _ask(self, identity: str, role: str) -> str:
        decision = self._open().check(frozenset({identity}), cast("Role", role))
        if not decision.allowed:
            raise self._refusal(identity, decision)
        return f"{identity} is active as {role} ({decision.source})"

    def _refusal(self, identity: str, decision: Decision) -> Fault:
        if self._globus is None:
            where = str(self._settings.roster)
            return Fault(f"{identity}: {decision.reason}", where=where, remedy="Ask the keeper of the roster.")
        remedy = _MENDS.get(decision.reason, "Ask the group's administrator.")
        return Fault(f"{identity}: {decision.reason}", where=decision.source, remedy=remedy)

    def _open(self) -> Authorizer:
        if self._authorizer is None:
            self._authorizer = self._opened()
        return self._authorizer

    def _opened(self) -> Authorizer:
        charter = self._charter()
        group = None if charter is None else charter.charter.group
        if self._globus is not None:
            from ..globus.authorizer import open_authorizer

            if group is None:
                raise Doubt("which group cannot be said, as the charter does not hold")
            return open_authorizer(self._globus, group.id, self._clock)
        from ...trust.group import RosterAuthorizer

        if group is not None and group.authorizer == "globus":
            raise Fault("the charter's group is one of Globus", remedy="Configure `globus`: docs/configuration.md.")
        if self._settings.roster is None:
            raise Fault("no roster is configured", remedy="Name the file with `roster:`.")
        return RosterAuthorizer(self._settings.roster, self._clock, group=None if group is None else group.id)
