"""Keys change in the middle of a run: what a site's people put into its outbox reaches the log, and binds everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from counterseal.audit.checks.evidence import Trust
from counterseal.audit.checks.source import FolderSource
from counterseal.audit.events import AggregateCommit, KeyRevoke, KeyRotate
from counterseal.audit.verify import verify
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.documents import sign
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.statement import make_statement
from counterseal.trust.mailbox import write_message
from counterseal.trust.messages import Revocation, Rotation

from ..federation import ORIGIN, Federation, run_config
from .test_federation import play, sites_of


def revocation(federation: Federation, by: str, member: str, use: str = "release", reason: Any = "stolen") -> Any:
    key = federation.charter.statements[member].document.key(use)  # type: ignore[arg-type]
    assert key is not None
    about = {"federation": "test-federation", "identity": by, "time": federation.clock()}
    return sign(Revocation(**about, member=member, key=key.key_id, reason=reason), federation.keys[by].signer)  # type: ignore[arg-type]


def outbox(federation: Federation, name: str) -> Path:
    folder = federation.folder / name / "mailbox" / "outbox"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def verified(federation: Federation) -> Any:
    source = FolderSource(federation.log_folder)
    return verify(source, Trust(federation.charter, objects=source.objects()))


def test_a_revocation_in_the_outbox_is_a_leaf_right_behind_its_receipt(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    site = federation.sites[0]
    message = revocation(federation, site, site)
    write_message(outbox(federation, site), message)
    with sites_of(federation) as transport:
        result, log, _ = play(federation, transport)
    revoked = [(index, event) for index, event in enumerate(log) if isinstance(event, KeyRevoke)]
    assert [(event.identity, event.key) for _, event in revoked] == [(site, message.document.key)]
    assert log[revoked[0][0] - 1].type == "receipt.file"
    assert result.outcome == "completed"
    assert not list(outbox(federation, site).iterdir())
    assert verified(federation).passed


def test_a_site_that_revokes_its_signing_key_is_out_from_the_next_leaf_on(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    site = federation.sites[0]
    write_message(outbox(federation, site), revocation(federation, site, site, "sign"))
    with sites_of(federation) as transport:
        result, log, _ = play(federation, transport, run_config(rounds=1, minimum_sites=3))
    commit = next(event for event in log if isinstance(event, AggregateCommit))
    assert site not in [one.site for one in commit.inputs]
    assert result.outcome == "completed"
    assert verified(federation).passed


def test_others_revoke_by_quorum_only(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 4)
    accused, one, two, three = federation.sites
    with sites_of(federation) as transport:
        for voter in (one, two):
            write_message(outbox(federation, voter), revocation(federation, voter, accused))
        _, log, _ = play(federation, transport, run_config("run-1", rounds=1))
        assert not [event for event in log if isinstance(event, KeyRevoke)]
        write_message(outbox(federation, three), revocation(federation, three, accused))
        _, log, _ = play(federation, transport, run_config("run-2", rounds=1))
    revoked = [event for event in log if isinstance(event, KeyRevoke)]
    assert [(event.identity, len(event.messages)) for event in revoked] == [(accused, 3)]
    assert verified(federation).passed


def test_a_server_that_swallows_a_revocation_is_refused(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    site = federation.sites[0]
    write_message(outbox(federation, site), revocation(federation, site, site))

    def swallow(name: str, delivery: bytes) -> bytes:
        """A server that files the receipt but not what it carries: here, by not showing the leaf."""
        value = parse(delivery, limit=10_000_000)
        value["leaves"] = [
            leaf for leaf in value["leaves"] if "a2V5LnJldm9rZ" not in leaf["leaf"]
        ]  # key.revoke in base64
        kept = [leaf for leaf in value["leaves"] if '"key.revoke"' not in _payload(leaf["leaf"])]
        return canonical({**value, "leaves": kept})

    with sites_of(federation) as transport:
        transport.meddle = swallow
        config = run_config(rounds=1, minimum_sites=3, retries=0)
        result, _, seen = play(federation, transport, config)
    refused = [one for one in seen if getattr(one, "site", None) == site and getattr(one, "verdict", "") == "failed"]
    assert [one.reasons for one in refused] == [("unsettled",)]  # type: ignore[union-attr]
    assert result.outcome == "aborted"


def _payload(leaf: str) -> str:
    import base64

    return base64.b64decode(parse(leaf.encode())["payload"]).decode()


def test_rotation_by_the_outbox_and_a_restart_with_the_new_keys(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    site = federation.sites[0]
    old, fresh = federation.keys[site], MemberKeys.generate()
    statement = make_statement(
        fresh,
        federation="test-federation",
        identity=site,
        log_origin=ORIGIN,
        not_before=federation.clock() - 10,
        not_after=federation.clock() + 86_400,
        previous=federation.charter.statements[site],
        previous_signer=old.signer,
    )
    about: dict[str, Any] = {"federation": "test-federation", "identity": site, "time": federation.clock()}
    write_message(outbox(federation, site), sign(Rotation(**about, statement=statement.raw.decode()), old.signer))
    with sites_of(federation) as transport:
        _, log, seen = play(federation, transport, run_config("run-1", rounds=1, minimum_sites=2))
    assert [event.identity for event in log if isinstance(event, KeyRotate)] == [site]
    failed = [one for one in seen if getattr(one, "site", None) == site and getattr(one, "verdict", "") == "failed"]
    assert [one.reasons for one in failed] == [("custody",)], "the site says that it needs its new keys"  # type: ignore[union-attr]

    federation.keys[site] = fresh
    with sites_of(federation) as transport:
        _, log, _ = play(federation, transport, run_config("run-2", rounds=2))
    commits = [event for event in log if isinstance(event, AggregateCommit) and event.run == "run-2"]
    assert all(site in [one.site for one in commit.inputs] for commit in commits)
    assert verified(federation).passed


def test_a_thief_with_a_retired_key_rotates_nothing(tmp_path: Path) -> None:
    """A rotation signed by another member's key, or carried by another's outbox, makes no leaf."""
    federation = Federation.make(tmp_path / "fed", 3)
    victim, thief = federation.sites[:2]
    statement = make_statement(
        MemberKeys.generate(),
        federation="test-federation",
        identity=victim,
        log_origin=ORIGIN,
        not_before=federation.clock() - 10,
        not_after=federation.clock() + 86_400,
        previous=federation.charter.statements[victim],
        previous_signer=federation.keys[thief].signer,
    )
    about: dict[str, Any] = {"federation": "test-federation", "identity": thief, "time": federation.clock()}
    forged = sign(Rotation(**about, statement=statement.raw.decode()), federation.keys[thief].signer)
    write_message(outbox(federation, thief), forged)
    with sites_of(federation) as transport:
        result, log, _ = play(federation, transport)
    assert not [event for event in log if isinstance(event, KeyRotate)]
    assert result.outcome == "completed"


def test_a_message_by_hand_reaches_the_log_at_the_next_round(tmp_path: Path) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    site = federation.sites[0]
    inbox = federation.folder / "server" / "mailbox" / "inbox"
    inbox.mkdir(parents=True)
    write_message(inbox, revocation(federation, site, site))
    with sites_of(federation) as transport:
        _, log, _ = play(federation, transport)
    assert [event.identity for event in log if isinstance(event, KeyRevoke)] == [site]
    assert not list(inbox.iterdir())


@pytest.mark.parametrize("times", [1, 3])
def test_the_same_message_counts_once(tmp_path: Path, times: int) -> None:
    federation = Federation.make(tmp_path / "fed", 3)
    site = federation.sites[0]
    message = revocation(federation, site, site)
    with sites_of(federation) as transport:
        for number in range(times):
            write_message(outbox(federation, site), message)
            _, log, _ = play(federation, transport, run_config(f"run-{number}", rounds=1))
    assert len([event for event in log if isinstance(event, KeyRevoke)]) == 1
