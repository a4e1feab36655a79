"""Rewrapping: a changed set of recipients for ciphertext that stays as it is.

The payload is bound to the digest of the *original* context (Tink's associated data), which names the original recipients.
Encrypting again would change the ciphertext, and with it part digests that were already logged; for an update it would
be a second release. So a rewrap leaves payload, parts and commitment alone and signs a new context:

- it differs from the original in sender, sender key and recipients only;
- ``rewraps`` names the original manifest and the original context by digest; the payload stays bound to the latter;
- the wraps are bound to the *new* context (HPKE's ``info``), so they open in this manifest only.

Why that is safe: a reader must hold and verify **both** manifests. Who made the data, and in which place, is then said by
the original sender's signature over context, parts and commitment; the rewrapper's signature says only who hands it
on and to whom. A rewrapper cannot change the data (parts, associated data), cannot give one recipient another root
(commitment), cannot move it (every other field is equal, and the associated data would differ), cannot pass it off as its
own (the original names its sender, and a rewrap without its original opens nowhere), and must itself be a recipient,
for the root is only in the wraps. What it can do is show the data to others, as any recipient can: revocation and
policy for the new recipients are the caller's check, and the act is a leaf in the log.

A rewrap is made from an original only, never from a rewrap, so that there is one step to verify and not a chain.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..documents import Signed, sign
from ..errors import BlobError, PlaceError
from ..keys.sealing import OpeningKey, SealingKey
from ..keys.signing import Signer
from .manifest import Context, Manifest, Rewrap
from .wraps import recipient_names, unwrap_root, wrap_root

__all__ = ["require_original", "rewrap"]

_MAY_DIFFER = frozenset({"sender", "sender_key", "recipients"})


def rewrap(
    original: Signed[Manifest],
    key: OpeningKey,
    recipients: Sequence[SealingKey],
    *,
    signer: Signer,
    sender: str,
    expires: int,
) -> Signed[Manifest]:
    """Return a manifest by ``sender`` that hands ``original`` on to ``recipients``; ``key`` must be able to open it.

    Raises:
        RecipientError: ``key`` is not a recipient of the original, or ``recipients`` are empty, doubled or of another suite.
        CommitmentError: the original's wrap for ``key`` holds another root than the one committed to.
        BlobError: ``original`` is itself a rewrap.
    """
    document = original.document
    if document.rewraps is not None:
        raise BlobError("a rewrap is not rewrapped", where="manifest", remedy="Rewrap the original manifest.")
    keys = unwrap_root(document, key)
    context = Context(
        **{
            **document.context.model_dump(),
            "sender": sender,
            "sender_key": signer.public.key_id,
            "recipients": recipient_names(recipients, document.context.suite),
        }
    )
    manifest = Manifest(
        context=context,
        wraps=wrap_root(keys, context, recipients),
        commitment=document.commitment,
        part_size=document.part_size,
        parts=document.parts,
        expires=expires,
        rewraps=Rewrap(manifest=original.digest, context=document.context.binding.hex()),
    )
    return sign(manifest, signer)


def require_original(manifest: Signed[Manifest], original: Signed[Manifest] | None) -> Manifest:
    """Return the manifest whose context binds the payload: ``original`` for a rewrap, else ``manifest`` itself.

    Raises:
        PlaceError: an original is missing or not called for, or the two do not agree.
    """
    one = manifest.document
    if one.rewraps is None or original is None:
        if one.rewraps is None and original is None:
            return one
        missing = "is missing" if original is None else "is given for a manifest that rewraps nothing"
        raise PlaceError(f"the original manifest {missing}", where="rewrap")
    two = original.document
    if one.rewraps.manifest != original.digest or one.rewraps.context != two.context.binding.hex():
        raise PlaceError("the manifest given is not the one that is rewrapped", where="rewrap")
    if two.rewraps is not None:
        raise PlaceError("a rewrap of a rewrap", where="rewrap")
    fields = Context.model_fields.keys() - _MAY_DIFFER
    unequal = [name for name in sorted(fields) if getattr(one.context, name) != getattr(two.context, name)]
    unequal += [name for name in ("parts", "part_size", "commitment") if getattr(one, name) != getattr(two, name)]
    if unequal:
        raise PlaceError(f"{unequal[0]} differs from the original manifest", where="rewrap")
    return two
