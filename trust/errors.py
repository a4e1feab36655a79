"""The errors of `trust`: who may say so.

TrustError
├── MalformedError          the bytes are not of the promised form
├── SignatureError          the signature does not hold, or the signer is not the one expected
├── KeyFault                something is wrong with a key
│   ├── WeakKeyError        a key under which anybody could sign or open
│   ├── UnknownKeyError     no such key for this identity and use
│   ├── RevokedKeyError     the key was revoked before this place in the log
│   └── CustodyError        a private key cannot be reached, or lies where others can read it
├── CharterError            the charter, or its signatures, do not make a federation
├── MailboxError            a message file is not one that this party takes
├── NotAuthorizedError      the group does not name this identity an active member in this role
├── SitePolicyError         a site policy that cannot be used, or facts that it cannot be asked about
│   └── PolicyEngineError   cedarpy, which evaluates policies, is not installed here
├── TicketError             a ticket that this site does not take
│   ├── ExpiredTicketError
│   ├── MisaddressedTicketError
│   ├── ReplayedTicketError
│   ├── EquivocationError   two different tickets, leaves or keys in one place: kept as evidence
│   └── UnloggedTicketError
└── BlobError               a sealed blob that does not open here
    ├── PlaceError          signed, but for another place: federation, run, version, ticket, kind, parent
    ├── RecipientError      not sealed for this key
    ├── CommitmentError     the root does not match the commitment
    ├── PartDigestError     stored bytes differ from the manifest
    └── PayloadError        a segment fails to decrypt, or the lengths disagree
"""

from __future__ import annotations

from ..errors import CountersealError


class TrustError(CountersealError):
    """A matter of who may say what."""

    code = "trust"


class MalformedError(TrustError):
    """The bytes are not of the promised form."""

    code = "malformed"


class SignatureError(TrustError):
    """The signature does not hold, or the signer is not the one expected."""

    code = "signature"


class KeyFault(TrustError):
    """Something is wrong with a key."""

    code = "key"


class WeakKeyError(KeyFault):
    """A key under which anybody could sign or open."""

    code = "weak_key"


class UnknownKeyError(KeyFault):
    """No such key for this identity and use."""

    code = "unknown_key"


class RevokedKeyError(KeyFault):
    """The key was revoked before this place in the log."""

    code = "revoked_key"


class CustodyError(KeyFault):
    """A private key cannot be reached, or lies where others can read it."""

    code = "custody"


class CharterError(TrustError):
    """The charter, or its signatures, do not make a federation."""

    code = "charter"


class MailboxError(TrustError):
    """A message file is not one that this party takes."""

    code = "mailbox"


class NotAuthorizedError(TrustError):
    """The group does not name this identity an active member in this role."""

    code = "not_authorized"


class SitePolicyError(TrustError):
    """A site policy that cannot be used, or facts that it cannot be asked about."""

    code = "site_policy"


class PolicyEngineError(SitePolicyError):
    """cedarpy, which evaluates policies, is not installed here."""

    code = "policy_engine"


class TicketError(TrustError):
    """A ticket that this site does not take."""

    code = "ticket"


class ExpiredTicketError(TicketError):
    """The ticket's time is over."""

    code = "ticket_expired"


class MisaddressedTicketError(TicketError):
    """The ticket is for another site, federation or run."""

    code = "ticket_misaddressed"


class ReplayedTicketError(TicketError):
    """The ticket's sequence number is not above the last one."""

    code = "ticket_replayed"


class EquivocationError(TicketError):
    """Two different statements in one place; both are kept as evidence."""

    code = "equivocation"


class UnloggedTicketError(TicketError):
    """The ticket's leaves are not proven to be in the log."""

    code = "ticket_unlogged"


class BlobError(TrustError):
    """A sealed blob that does not open here."""

    code = "blob"


class PlaceError(BlobError):
    """Signed, but for another place."""

    code = "blob_place"


class RecipientError(BlobError):
    """Not sealed for this key."""

    code = "blob_recipient"


class CommitmentError(BlobError):
    """The root does not match the commitment."""

    code = "blob_commitment"


class PartDigestError(BlobError):
    """Stored bytes differ from the manifest."""

    code = "blob_part"


class PayloadError(BlobError):
    """A segment fails to decrypt, or the lengths disagree."""

    code = "blob_payload"
