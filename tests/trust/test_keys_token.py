"""Keys on a PKCS#11 token, tried on SoftHSM2: they sign, they do not come out, and a folder remembers them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from counterseal.trust.errors import CustodyError
from counterseal.trust.keys.custody import create_folder, load_folder
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.passphrase import Passphrase
from counterseal.trust.keys.signing import SignatureAlgorithm
from counterseal.trust.keys.statement import make_statement, verify_statement
from counterseal.trust.keys.token import Token, TokenSigner

MODULES = [
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/lib64/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
]
PIN = b"1234-pin"
PASSPHRASE = Passphrase(b"correct horse battery staple")
ALGORITHMS: tuple[SignatureAlgorithm, ...] = ("ed25519", "p384", "p256")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SoftHSM2 with one fresh token, made before the library is first loaded: it reads its settings only then."""
    found = next((path for path in MODULES if path.exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        pytest.fail("these tests need SoftHSM2: apt-get install -y softhsm2 (or dnf install softhsm)")
    home = tmp_path_factory.mktemp("softhsm")
    (home / "tokens").mkdir()
    settings = f"directories.tokendir = {home}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    (home / "softhsm2.conf").write_text(settings)
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(home / "softhsm2.conf")
    command = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "officer",
        "--pin",
        PIN.decode(),
        "--so-pin",
        "so-pin",
    ]
    subprocess.run(command, check=True, capture_output=True)
    yield found
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture(scope="module")
def pin(tmp_path_factory: pytest.TempPathFactory) -> Passphrase:
    path = tmp_path_factory.mktemp("pin") / "pin"
    path.touch(0o600)
    path.write_bytes(PIN + b"\n")
    return Passphrase.from_file(path)


@pytest.fixture(scope="module")
def token(module: Path, pin: Passphrase) -> Token:
    return Token.open(module, "officer", pin)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_key_signs_and_is_found_again(algorithm: SignatureAlgorithm, token: Token) -> None:
    made = token.make(f"signs-{algorithm}", algorithm)
    for message in (b"", b"message", bytes(100_000)):
        made.public.verify(made.sign(message), message)
    found = token.find(f"signs-{algorithm}")
    assert found.public == made.public and found.public.algorithm == algorithm
    found.public.verify(found.sign(b"again"), b"again")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_private_key_does_not_come_out(algorithm: SignatureAlgorithm, token: Token) -> None:
    import pkcs11

    made = token.make(f"stays-{algorithm}", algorithm)
    with pytest.raises(pkcs11.AttributeSensitive):
        made._key[pkcs11.Attribute.VALUE]
    wrapping = token._session.generate_key(pkcs11.KeyType.AES, 256, label=f"wraps-{algorithm}", store=False)
    with pytest.raises(pkcs11.PKCS11Error):
        wrapping.wrap_key(made._key)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(made)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(token)
    assert PIN.decode() not in repr(made) + repr(token)
    assert not [name for name in dir(made) if "private" in name]


def test_a_key_that_could_come_out_is_refused(token: Token) -> None:
    import pkcs11

    curve = token._session.create_domain_parameters(
        pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}, local=True
    )
    loose = {pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.EXTRACTABLE: True}
    curve.generate_keypair(store=True, label="loose", private_template=loose)
    with pytest.raises(CustodyError, match="could be exported"):
        token.find("loose")


def test_labels_are_taken_once(token: Token) -> None:
    token.make("once", "ed25519")
    with pytest.raises(CustodyError, match="already holds"):
        token.make("once", "ed25519")
    with pytest.raises(CustodyError, match="NoSuchKey"):
        token.find("never")


def test_a_foreign_curve_is_refused(token: Token) -> None:
    import pkcs11

    secp521r1 = bytes.fromhex("06052b81040023")
    curve = token._session.create_domain_parameters(
        pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: secp521r1}, local=True
    )
    curve.generate_keypair(store=True, label="foreign")
    with pytest.raises(CustodyError, match="does not use"):
        token.find("foreign")


def test_a_wrong_pin_is_refused_first_and_later(token: Token, module: Path) -> None:
    with pytest.raises(CustodyError, match="refused the login") as caught:
        Token.open(module, "officer", Passphrase(b"9999-pin"))
    assert "9999" not in str(caught.value)
    assert Token.open(module, "officer", Passphrase(PIN)) is token
    script = (
        "import sys; from pathlib import Path\n"
        "from counterseal.trust.keys.token import Token; from counterseal.trust.keys.passphrase import Passphrase\n"
        "try: Token.open(Path(sys.argv[1]), sys.argv[2], Passphrase(sys.argv[3].encode()))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = [sys.executable, "-c", script, str(module)]
    fresh = subprocess.run([*run, "officer", "9999-pin"], capture_output=True, text=True, check=True)
    assert fresh.stdout.startswith("CustodyError token 'officer': the token refused the login")
    none = subprocess.run([*run, "nobody", "1234-pin"], capture_output=True, text=True, check=True)
    assert none.stdout.startswith("CustodyError token 'nobody': the token answered NoSuchToken")
    gone = subprocess.run([*run[:3], "/no/such.so", "officer", "x"], capture_output=True, text=True, check=True)
    assert gone.stdout.startswith("CustodyError /no/such.so: no such PKCS#11 module")


def test_without_the_extra_the_error_names_it() -> None:
    script = (
        "import sys; sys.modules['pkcs11'] = None\n"
        "from pathlib import Path\n"
        "from counterseal.trust.keys.token import Token; from counterseal.trust.keys.passphrase import Passphrase\n"
        "try: Token.open(Path('/dev/null'), 'officer', Passphrase(b'1234'))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("CustodyError") and 'pip install "counterseal[pkcs11]"' in run.stdout


@pytest.fixture(scope="module")
def member(token: Token) -> MemberKeys:
    keys = MemberKeys.generate()
    return replace(keys, signer=token.make("sign", "ed25519"), release=token.make("release", "p256"))


def test_a_member_speaks_through_its_token(member: MemberKeys) -> None:
    made = make_statement(
        member, federation="net", identity="alice", log_origin="log.example.org/net", not_before=0, not_after=10
    )
    read = verify_statement(made.raw, federation="net", log_origin="log.example.org/net", now=5)
    assert read.document.sign == member.signer.public


def test_a_folder_remembers_the_token_and_never_the_pin(member: MemberKeys, tmp_path: Path) -> None:
    create_folder(tmp_path / "keys", member, PASSPHRASE)
    names = {path.name for path in (tmp_path / "keys").iterdir()}
    assert names == {"custody.json", "cosign.pem", "pkcs11.json", "seal.key"}
    loaded = load_folder(tmp_path / "keys", PASSPHRASE)
    assert loaded.key_ids == member.key_ids and isinstance(loaded.signer, TokenSigner)
    member.signer.public.verify(loaded.signer.sign(b"message"), b"message")
    assert PIN not in b"".join(path.read_bytes() for path in (tmp_path / "keys").iterdir())


def test_another_key_on_the_token_does_not_pass(member: MemberKeys, token: Token, tmp_path: Path) -> None:
    create_folder(tmp_path / "keys", member, PASSPHRASE)
    token.make("planted", "ed25519")
    described = json.loads((tmp_path / "keys" / "pkcs11.json").read_text())
    described["keys"]["sign"] = "planted"
    (tmp_path / "keys" / "pkcs11.json").write_text(json.dumps(described))
    with pytest.raises(CustodyError, match="sign key found is not the one"):
        load_folder(tmp_path / "keys", PASSPHRASE)
    del described["keys"]["sign"]
    (tmp_path / "keys" / "pkcs11.json").write_text(json.dumps(described))
    with pytest.raises(CustodyError, match="does not name the keys"):
        load_folder(tmp_path / "keys", PASSPHRASE)


def test_a_typed_pin_cannot_be_kept(token: Token, member: MemberKeys, tmp_path: Path) -> None:
    assert isinstance(member.signer, TokenSigner)
    typed = Token(token.module, token.label, Passphrase(PIN), token._session)
    keys = replace(MemberKeys.generate(), signer=typed.find("sign"))
    with pytest.raises(CustodyError, match="PIN was typed"):
        create_folder(tmp_path / "keys", keys, PASSPHRASE)
    assert list(tmp_path.iterdir()) == []
