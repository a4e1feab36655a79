"""Custody: who else can read is refused with the command to run, damage is one error, and secrets show nowhere."""

from __future__ import annotations

import copy
import hmac
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from counterseal.trust.canonical import canonical
from counterseal.trust.errors import CustodyError
from counterseal.trust.keys.custody import INDEX, create_folder, load_folder
from counterseal.trust.keys.index import ScryptCost
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.passphrase import Passphrase, PassphraseSource
from counterseal.trust.keys.permissions import read_private_file
from counterseal.trust.keys.signing import SoftwareSigner

SECRET = b"correct horse battery staple"
PASSPHRASE = Passphrase(SECRET)
KEYS = MemberKeys.generate(operator=True)
FILES = {"custody.json", "sign.pem", "cosign.pem", "release.pem", "checkpoint.pem", "seal.key"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("custody") / "keys"
    create_folder(path, KEYS, PASSPHRASE)
    return path


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "keys"))


def test_the_folder_keeps_the_keys_and_nobody_else_reads_them(written: Path) -> None:
    loaded = load_folder(written, PASSPHRASE)
    assert loaded.key_ids == KEYS.key_ids and loaded.suite == KEYS.suite
    assert loaded.opening.unwrap(KEYS.opening.public.wrap(b"secret", b"info"), b"info") == b"secret"
    KEYS.signer.public.verify(loaded.signer.sign(b"message"), b"message")
    assert stat.S_IMODE(written.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in written.iterdir()} == dict.fromkeys(FILES, 0o600)


@pytest.mark.parametrize("suite", ["P384", "MLKEM1024_P384"])
def test_the_suites_bound_to_fips_use_pbkdf2(suite: str, tmp_path: Path) -> None:
    keys = MemberKeys.generate(suite)  # type: ignore[arg-type]
    create_folder(tmp_path / "keys", keys, PASSPHRASE)
    assert json.loads((tmp_path / "keys" / INDEX).read_text())["kdf"]["name"] == "pbkdf2-sha256"
    loaded = load_folder(tmp_path / "keys", PASSPHRASE)
    assert loaded.key_ids == keys.key_ids and loaded.checkpoint is None


def test_one_derivation_opens_the_whole_folder(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[bytes] = []
    derive = ScryptCost.derive

    def counted(self: ScryptCost, passphrase: bytes) -> bytes:
        runs.append(passphrase)
        return derive(self, passphrase)

    monkeypatch.setattr(ScryptCost, "derive", counted)
    load_folder(written, PASSPHRASE)
    assert len(runs) == 1


def test_openssl_opens_a_key_with_the_derivation_of_the_page(written: Path) -> None:
    kdf = json.loads((written / INDEX).read_text())["kdf"]
    folder_key = Scrypt(bytes.fromhex(kdf["salt"]), 32, 1 << kdf["log2_n"], 8, kdf["p"]).derive(SECRET)
    file_key = HKDF(hashes.SHA256(), 32, None, b"counterseal-custody-v1 sign.pem").derive(folder_key)
    command = ["openssl", "pkey", "-in", str(written / "sign.pem"), "-passin", f"pass:{file_key.hex()}", "-pubout"]
    der = subprocess.run([*command, "-outform", "DER"], check=True, capture_output=True).stdout
    assert der[-32:] == KEYS.signer.public.public


def _link_key(folder: Path) -> None:
    (folder / "sign.pem").rename(folder.parent / "elsewhere")
    (folder / "sign.pem").symlink_to(folder.parent / "elsewhere")


def _link_folder(folder: Path) -> None:
    folder.rename(folder.parent / "real")
    folder.symlink_to(folder.parent / "real")


def _folder_for_key(folder: Path) -> None:
    (folder / "sign.pem").unlink()
    (folder / "sign.pem").mkdir(0o700)


def _pipe_for_key(folder: Path) -> None:
    (folder / "sign.pem").unlink()
    os.mkfifo(folder / "sign.pem", 0o600)


def _file_for_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch(0o600)


LOOSE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "file that the group reads": (lambda p: (p / "sign.pem").chmod(0o640), "0640", "chmod 600"),
    "file that all read": (lambda p: (p / "seal.key").chmod(0o644), "0644", "chmod 600"),
    "file that all write": (lambda p: (p / INDEX).chmod(0o602), "0602", "chmod 600"),
    "forgotten copy that all read": (lambda p: (p / "sign.pem~").touch(0o644), "0644", "chmod 600"),
    "folder that all enter": (lambda p: p.chmod(0o755), "0755", "chmod 700"),
    "folder that the group enters": (lambda p: p.chmod(0o710), "0710", "chmod 700"),
    "linked key": (_link_key, "symbolic link", "file itself"),
    "linked folder": (_link_folder, "symbolic link", "Name"),
    "folder in place of a key": (_folder_for_key, "regular", ""),
    "pipe in place of a key": (_pipe_for_key, "regular", ""),
    "no folder": (lambda p: shutil.rmtree(p), "not found", ""),
    "file in place of the folder": (_file_for_folder, "cannot be opened", ""),
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_loose_folder_is_refused_with_the_command_to_run(name: str, folder: Path) -> None:
    loosen, words, remedy = LOOSE[name]
    loosen(folder)
    with pytest.raises(CustodyError, match=words) as caught:
        load_folder(folder, PASSPHRASE)
    assert remedy in caught.value.remedy


def test_another_owner_is_refused(folder: Path) -> None:
    if os.geteuid() != 0:  # who is not root cannot give a file away, but always meets one of root's
        with pytest.raises(CustodyError, match="owned by user 0"):
            read_private_file(Path("/etc/passwd"), limit=1 << 20)
        return
    os.chown(folder / "sign.pem", 65534, -1)
    with pytest.raises(CustodyError, match="owned by user 65534"):
        load_folder(folder, PASSPHRASE)
    os.chown(folder / "sign.pem", 0, -1)
    os.chown(folder, 65534, -1)
    with pytest.raises(CustodyError, match="owned by user 65534") as caught:
        load_folder(folder, PASSPHRASE)
    assert "chown 0" in caught.value.remedy


def test_a_wrong_passphrase_says_nothing_more(written: Path) -> None:
    texts = set()
    for wrong in (SECRET[:-1], SECRET + b" ", SECRET.upper()):
        with pytest.raises(CustodyError, match="wrong passphrase") as caught:
            load_folder(written, Passphrase(wrong))
        texts.add(str(caught.value))
        assert wrong.decode() not in "".join(traceback.format_exception(caught.value))
    assert len(texts) == 1


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated_files_are_refused(name: str, kept: float, folder: Path) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CustodyError):
        load_folder(folder, PASSPHRASE)


@pytest.mark.parametrize("name", sorted(FILES))
def test_missing_and_swollen_files_are_refused(name: str, folder: Path) -> None:
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    with pytest.raises(CustodyError, match="not found"):
        load_folder(folder, PASSPHRASE)
    (folder / name).touch(0o600)
    (folder / name).write_bytes(data + b" " * 70_000)
    with pytest.raises(CustodyError, match="over 65536 bytes"):
        load_folder(folder, PASSPHRASE)


@pytest.mark.parametrize("name", ["sign.pem", "seal.key"])
def test_a_flipped_bit_is_noticed(name: str, folder: Path) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CustodyError, match=rf"{name} is damaged|not the one that the index names"):
        load_folder(folder, PASSPHRASE)


def test_swapped_files_are_refused(folder: Path, tmp_path: Path) -> None:
    sign, cosign = (folder / "sign.pem").read_bytes(), (folder / "cosign.pem").read_bytes()
    (folder / "sign.pem").write_bytes(cosign)
    (folder / "cosign.pem").write_bytes(sign)
    with pytest.raises(CustodyError, match=r"sign\.pem is damaged"):
        load_folder(folder, PASSPHRASE)


def test_a_key_of_another_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    create_folder(tmp_path / "other", MemberKeys.generate(operator=True), PASSPHRASE)
    for name in ("sign.pem", "seal.key"):
        shutil.copy(tmp_path / "other" / name, folder / name)
        with pytest.raises(CustodyError, match=f"{name} is damaged"):
            load_folder(folder, PASSPHRASE)


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("kdf.log2_n", 30, "damaged"),  # 1 TiB of memory
        ("kdf.log2_n", 10, "damaged"),
        ("kdf.log2_n", 16, "changed index"),
        ("kdf.p", 1000, "damaged"),
        ("kdf.name", "none", "damaged"),
        ("kdf", {"name": "pbkdf2-sha256", "salt": "00" * 32, "iterations": 10**9}, "damaged"),
        ("kdf", {"name": "pbkdf2-sha256", "salt": "00" * 32, "iterations": 1}, "damaged"),
        ("kdf.salt", "00" * 32, "changed index"),
        ("suite", "P384", "changed index"),
        ("mac", "00" * 32, "changed index"),
        ("keys.0.key_id", "00" * 32, "changed index"),
        ("keys.1.store", "pkcs11", "changed index"),
        ("keys.1.use", "seal", "damaged"),
        ("format", "counterseal-custody-v2", "damaged"),
        ("extra", 1, "damaged"),
    ],
)
def test_a_changed_index_is_refused(member: str, value: object, words: str, folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    *path, last = member.split(".")
    place = index
    for step in path:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    (folder / INDEX).write_bytes(canonical(index))
    with pytest.raises(CustodyError, match=words):
        load_folder(folder, PASSPHRASE)


def test_nothing_is_overwritten_and_short_passphrases_are_refused(written: Path, tmp_path: Path) -> None:
    before = (written / INDEX).read_bytes()
    with pytest.raises(CustodyError, match="already exists"):
        create_folder(written, KEYS, PASSPHRASE)
    assert (written / INDEX).read_bytes() == before
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CustodyError, match="already exists"):
        create_folder(tmp_path / "dangling", KEYS, PASSPHRASE)
    with pytest.raises(CustodyError, match="shorter than 12"):
        create_folder(tmp_path / "new", KEYS, Passphrase(b"hunter2"))
    assert [path.name for path in tmp_path.iterdir()] == ["dangling"]


class _Killed(BaseException):
    pass


def _steps(tmp_path: Path) -> list[str]:
    steps: list[str] = []
    create_folder(tmp_path / "counted", KEYS, PASSPHRASE, probe=steps.append)
    return steps


def test_a_kill_at_any_step_leaves_the_folder_whole_or_absent(tmp_path: Path) -> None:
    steps = _steps(tmp_path)
    assert len(steps) == 3 * len(FILES) + 2
    for number in range(0, len(steps), 4):
        path, left = tmp_path / f"keys{number}", number

        def probe(step: str) -> None:
            nonlocal left
            if left == 0:
                raise _Killed(step)
            left -= 1

        with pytest.raises(_Killed):
            create_folder(path, KEYS, PASSPHRASE, probe=probe)
        assert not path.exists()
        assert [other.name for other in tmp_path.iterdir() if other.name.startswith(f".keys{number}.")] == []

    def last(step: str) -> None:
        if step == "custody.folder.done":
            raise _Killed

    with pytest.raises(_Killed):
        create_folder(tmp_path / "keys", KEYS, PASSPHRASE, probe=last)
    assert load_folder(tmp_path / "keys", PASSPHRASE).key_ids == KEYS.key_ids


def test_secrets_are_in_no_file_and_no_text(written: Path) -> None:
    assert isinstance(KEYS.signer, SoftwareSigner)
    private = KEYS.opening.to_private_bytes()
    secrets = [SECRET, private, private[:32], private[64:], KEYS.signer.private.private_bytes_raw()]  # type: ignore[union-attr]
    stored = b"".join(path.read_bytes() for path in written.iterdir())
    shown = repr(KEYS) + str(KEYS) + repr(PASSPHRASE) + str(PASSPHRASE) + f"{load_folder(written, PASSPHRASE)}"
    for secret in secrets:
        assert secret not in stored and secret.hex().encode() not in stored
        assert secret.hex() not in shown and repr(secret)[2:-1] not in shown
    for secret_value in (KEYS, PASSPHRASE):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(secret_value)
        with pytest.raises(TypeError, match="never pickled"):
            copy.deepcopy(secret_value)


# Passphrases for processes that nobody watches.


def test_a_passphrase_from_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.touch(0o600)
    for content, value in (
        (SECRET, SECRET),
        (SECRET + b"\n", SECRET),
        (SECRET + b"\r\n", SECRET),
        (b" a \n\n", b" a \n"),
    ):
        path.write_bytes(content)
        assert Passphrase.from_file(path).reveal() == value
    assert Passphrase.from_file(path).source == PassphraseSource(file=str(path))
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(CustodyError, match="lets others in") as caught:
            Passphrase.from_file(path)
        assert caught.value.remedy == f"Run: chmod 600 {path}"
    path.chmod(0o400)
    Passphrase.from_file(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(CustodyError, match="symbolic link"):
        Passphrase.from_file(tmp_path / "link")
    with pytest.raises(CustodyError, match="not found"):
        Passphrase.from_file(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"\n", b"a\0b", b"x" * 5000])
def test_values_that_are_no_passphrase(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(CustodyError):
        Passphrase.from_file(path)


def test_a_passphrase_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERSEAL_TEST_PASSPHRASE", SECRET.decode())
    found = Passphrase.from_environment("COUNTERSEAL_TEST_PASSPHRASE")
    assert found.reveal() == SECRET
    assert repr(found) == "Passphrase(passphrase from environment COUNTERSEAL_TEST_PASSPHRASE)"
    with pytest.raises(CustodyError, match="has no COUNTERSEAL_TEST_MISSING"):
        Passphrase.from_environment("COUNTERSEAL_TEST_MISSING")


def test_a_passphrase_from_a_command() -> None:
    script = "import sys; print(sys.argv[1])"
    found = Passphrase.from_command([sys.executable, "-c", script, "two words; $HOME"])
    assert found.reveal() == b"two words; $HOME"  # no shell came near it
    assert "two words" not in repr(found)
    failing = "import sys; print('leaked-value'); sys.exit(3)"
    with pytest.raises(CustodyError, match="status 3") as caught:
        Passphrase.from_command([sys.executable, "-c", failing])
    assert "leaked-value" not in "".join(traceback.format_exception(caught.value))
    for nothing in ([], ["/nonexistent/program"]):
        with pytest.raises(CustodyError):
            Passphrase.from_command(nothing)


def test_a_source_obtains_what_it_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERSEAL_TEST_PASSPHRASE", SECRET.decode())
    assert PassphraseSource(environment="COUNTERSEAL_TEST_PASSPHRASE").obtain().reveal() == SECRET
    assert PassphraseSource(command=("echo", "words")).obtain().reveal() == b"words"
    for source in (PassphraseSource(), PassphraseSource(file="/x", environment="Y")):
        with pytest.raises(CustodyError, match="exactly one"):
            source.obtain()


def test_the_pages_recipe_opens_the_sealing_key(written: Path) -> None:
    index = json.loads((written / INDEX).read_text())
    folder_key = Scrypt(bytes.fromhex(index["kdf"]["salt"]), 32, 2**17, 8, 1).derive(SECRET)
    file_key = HKDF(hashes.SHA256(), 32, None, b"counterseal-custody-v1 seal.key").derive(folder_key)
    magic = b"counterseal-seal-key-v1\n"
    data = (written / "seal.key").read_bytes()
    assert data.startswith(magic)
    nonce, sealed = data[len(magic) :][:12], data[len(magic) + 12 :]
    assert AESGCM(file_key).decrypt(nonce, sealed, magic + b"MLKEM768_X25519") == KEYS.opening.to_private_bytes()
    mac_key = HKDF(hashes.SHA256(), 32, None, b"counterseal-custody-v1 custody.json").derive(folder_key)
    mac = index.pop("mac")
    assert hmac.new(mac_key, canonical(index), "sha256").hexdigest() == mac
