"""A member's private keys at rest: one folder, one passphrase, one key derivation.

    keys/                  0700
      custody.json         the index: cost of the derivation, the keys by use and name, and a MAC over all that
      sign.pem             encrypted PKCS#8; cosign.pem, release.pem, checkpoint.pem likewise
      seal.key             the KEM key, which PKCS#8 cannot carry: AES-256-GCM
      pkcs11.json          in place of .pem files, for signing keys that live on a token

The passphrase goes through scrypt (or PBKDF2, for the suites of institutions bound to FIPS algorithms) **once** and
gives the folder key; HKDF-SHA256 gives each file its own key under its own label. A ``.pem`` file's passphrase is its
key in hexadecimal: 256 random bits, for which the 2,048 PBKDF2 rounds that PKCS#8 writers use by default do not matter,
while they would for a person's words. What is guaranteed:

- Files whose mode or owner lets others in are refused, not repaired (`trust.keys.permissions`).
- The index is checked by its MAC before any other file is opened; each key found must have the public name that the
  index gives to its use. Swapped, damaged, truncated, missing files: one `CustodyError`; a wrong passphrase and a changed
  index are not told apart. Cost parameters are bounded on read, so that a planted index cannot eat the machine.
- A folder is written under another name, synced and renamed: after a crash it is whole or absent.

``pkcs11.json`` is not under the MAC, so that a moved library or a new PIN source can be edited by hand; the public
names that are under it settle whether the token holds the right keys.

Not handled: wiping memory (Python cannot), a reader with the rights of this user, backups, changing the passphrase
(create a new folder from the loaded keys). Page: docs/formats/keys.md.
"""

from __future__ import annotations

import hmac
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import StringConstraints

from ...durable import Probe, create_file, silent, sync_folder
from ..canonical import canonical, parse
from ..documents import Model
from ..errors import CustodyError, MalformedError, WeakKeyError
from .index import INDEX, FolderIndex, HeldKey, Pbkdf2Cost, ScryptCost, SigningUse, file_key
from .member import MemberKeys
from .passphrase import Passphrase, PassphraseSource
from .permissions import PrivateFolder
from .sealing import OpeningKey, SealSuite
from .signing import Signer, SoftwareSigner
from .token import Token, TokenSigner

__all__ = ["INDEX", "create_folder", "load_folder"]

_TOKEN_FILE = "pkcs11.json"  # noqa: S105  (a file name)
_SEAL_FILE = "seal.key"
_SEAL_MAGIC = b"counterseal-seal-key-v1\n"
_LIMIT = 64 << 10
_SHORTEST = 12


class _TokenFile(Model):
    """Where the keys on a token are; no secret."""

    module: Annotated[str, StringConstraints(pattern=r"^/", max_length=4096)]
    token: Annotated[str, StringConstraints(min_length=1, max_length=32)]
    keys: dict[SigningUse, Annotated[str, StringConstraints(min_length=1, max_length=255)]]
    pin: PassphraseSource


def create_folder(path: Path, keys: MemberKeys, passphrase: Passphrase, *, probe: Probe = silent) -> None:
    """Write ``keys`` into the new folder ``path``.

    Raises:
        CustodyError: something is already at ``path``, the passphrase is shorter than 12 bytes, or a token's PIN has no
            source that works unattended.
    """
    if os.path.lexists(path):
        raise CustodyError("already exists", where=str(path), remedy="Name a new folder: keys are never overwritten.")
    if len(passphrase.reveal()) < _SHORTEST:
        raise CustodyError(f"the passphrase is shorter than {_SHORTEST} bytes", remedy="Use a generated one.")
    files = _files(keys, passphrase)
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}.draft")
    draft.mkdir(mode=0o700)
    try:
        for name, data in files.items():
            create_file(draft / name, data, step=f"custody.{name}", probe=probe, mode=0o600)
        probe("custody.folder.publish")
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_folder(path.parent)
    probe("custody.folder.done")


def load_folder(path: Path, passphrase: Passphrase) -> MemberKeys:
    """Return the keys in the folder ``path``.

    Raises:
        CustodyError: others may read it (the remedy is the command to run), a wrong passphrase, or files that are
            missing, damaged or swapped.
    """
    with PrivateFolder(path) as folder:
        try:
            return _load(folder, passphrase)
        except (MalformedError, WeakKeyError) as error:
            raise CustodyError(f"damaged: {error.what}", where=str(path), remedy="Restore it from a backup.") from None
        except CustodyError as error:
            raise CustodyError(error.what, where=error.where or str(path), remedy=error.remedy) from None


def _signers(keys: MemberKeys) -> dict[SigningUse, Signer]:
    found: dict[SigningUse, Signer] = {"sign": keys.signer, "cosign": keys.cosigner, "release": keys.release}
    if keys.checkpoint is not None:
        found["checkpoint"] = keys.checkpoint
    return found


def _files(keys: MemberKeys, passphrase: Passphrase) -> dict[str, bytes]:
    salt = os.urandom(32).hex()
    kdf = ScryptCost(salt=salt) if keys.suite == "MLKEM768_X25519" else Pbkdf2Cost(salt=salt)
    folder_key = kdf.derive(passphrase.reveal())
    files = {_SEAL_FILE: _seal(folder_key, keys.opening)}
    held = [HeldKey(use="seal", store="aead", key_id=keys.opening.public.key_id)]
    on_token: dict[SigningUse, TokenSigner] = {}
    for use, signer in _signers(keys).items():
        if isinstance(signer, TokenSigner):
            on_token[use] = signer
        elif isinstance(signer, SoftwareSigner):
            files[f"{use}.pem"] = _to_pem(folder_key, use, signer)
        else:
            raise CustodyError(f"the {use} key is neither in memory nor on a PKCS#11 token")
        store: Literal["pkcs8", "pkcs11"] = "pkcs11" if use in on_token else "pkcs8"
        held.append(HeldKey(use=use, store=store, key_id=signer.public.key_id))
    if on_token:
        files[_TOKEN_FILE] = _describe(on_token)
    index = FolderIndex(suite=keys.suite, kdf=kdf, keys=tuple(held), mac="0" * 64)
    index = index.model_copy(update={"mac": index.tag(folder_key)})
    return {**files, INDEX: canonical(index.model_dump(mode="json"))}


def _describe(signers: dict[SigningUse, TokenSigner]) -> bytes:
    tokens = {(one.token.module, one.token.label): one.token for one in signers.values()}
    if len(tokens) != 1:
        raise CustodyError("a member's token keys live on one token")
    (token,) = tokens.values()
    if token.pin_source is None:
        raise CustodyError("the token's PIN was typed", remedy="Open the token with a PIN from a file or command.")
    labels = {use: one.key_label for use, one in signers.items()}
    described = _TokenFile(module=str(token.module.absolute()), token=token.label, keys=labels, pin=token.pin_source)
    return canonical(described.model_dump(mode="json"))


def _load(folder: PrivateFolder, passphrase: Passphrase) -> MemberKeys:
    index = FolderIndex.from_json(_json(folder, INDEX), what=INDEX)
    held = index.held()
    folder_key = index.kdf.derive(passphrase.reveal())
    if not hmac.compare_digest(index.tag(folder_key), index.mac):
        _refuse()
    opening = _unseal(folder_key, index.suite, folder.read(_SEAL_FILE, limit=_LIMIT))
    _require_name(opening.public.key_id, held["seal"])
    on_token = _open_token(folder, held.values())
    signers: dict[str, Signer] = {}
    for use in get_args(SigningUse):
        if use in held:
            stored = held[use].store == "pkcs8"
            signers[use] = (
                _from_pem(folder_key, use, folder.read(f"{use}.pem", limit=_LIMIT)) if stored else on_token[use]
            )
            _require_name(signers[use].public.key_id, held[use])
    return MemberKeys(
        signer=signers["sign"],
        cosigner=signers["cosign"],
        opening=opening,
        release=signers["release"],
        checkpoint=signers.get("checkpoint"),
    )


def _open_token(folder: PrivateFolder, held: Iterable[HeldKey]) -> dict[str, Signer]:
    uses = [one.use for one in held if one.store == "pkcs11"]
    if not uses:
        return {}
    described = _TokenFile.from_json(_json(folder, _TOKEN_FILE), what=_TOKEN_FILE)
    if set(described.keys) != set(uses):
        raise MalformedError("does not name the keys that the index expects on the token", where=_TOKEN_FILE)
    token = Token.open(Path(described.module), described.token, described.pin.obtain())
    return {use: token.find(label) for use, label in described.keys.items()}


def _json(folder: PrivateFolder, name: str) -> Any:
    return parse(folder.read(name, limit=_LIMIT), limit=_LIMIT, what=name)


def _to_pem(folder_key: bytes, use: str, signer: SoftwareSigner) -> bytes:
    secret = file_key(folder_key, f"{use}.pem").hex().encode()
    locked = serialization.BestAvailableEncryption(secret)
    return signer.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


def _from_pem(folder_key: bytes, use: str, data: bytes) -> SoftwareSigner:
    try:
        key = serialization.load_pem_private_key(data, file_key(folder_key, f"{use}.pem").hex().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        _refuse(f"{use}.pem")
    if isinstance(key, Ed25519PrivateKey):
        return SoftwareSigner(key)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp384r1", "secp256r1"):
        return SoftwareSigner(key)
    _refuse(f"{use}.pem")


def _seal(folder_key: bytes, key: OpeningKey) -> bytes:
    nonce = os.urandom(12)
    cipher = AESGCM(file_key(folder_key, _SEAL_FILE))
    return _SEAL_MAGIC + nonce + cipher.encrypt(nonce, key.to_private_bytes(), _SEAL_MAGIC + key.public.suite.encode())


def _unseal(folder_key: bytes, suite: SealSuite, data: bytes) -> OpeningKey:
    head, body = data[: len(_SEAL_MAGIC)], data[len(_SEAL_MAGIC) :]
    if head != _SEAL_MAGIC or len(body) < 12 + 16:
        _refuse(_SEAL_FILE)
    try:
        cipher = AESGCM(file_key(folder_key, _SEAL_FILE))
        private = cipher.decrypt(body[:12], body[12:], _SEAL_MAGIC + suite.encode())
    except InvalidTag:
        _refuse(_SEAL_FILE)
    return OpeningKey.from_private_bytes(suite, private)


def _require_name(key_id: str, held: HeldKey) -> None:
    if key_id != held.key_id:
        raise CustodyError(f"the {held.use} key found is not the one that the index names")


def _refuse(name: str = "") -> NoReturn:
    what = f"the key file {name} is damaged" if name else "does not open: a wrong passphrase, or a changed index"
    raise CustodyError(what, remedy="Check the passphrase's source, or restore the folder from a backup.")
