"""The endpoint kit: what it writes is read by the real daemon's own code, by a real shell and by a real YAML reader."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from counterseal.runtime.endpoint.folder import RECORD, drift, files, read_kit, write_folder
from counterseal.runtime.endpoint.kit import Batch, Kit, MultiUser, Pod
from counterseal.runtime.endpoint.launcher import KEPT, commands, launcher, sudoers
from counterseal.runtime.endpoint.profiles import SERIALIZERS
from counterseal.runtime.endpoint.quoting import shell, yaml_text
from counterseal.runtime.endpoint.template import environment as environment_of
from counterseal.runtime.errors import EndpointError

ROOT = Path(__file__).parents[2]
DAEMON = ROOT / ".venv-endpoint" / "bin" / "globus-compute-endpoint"
FUNCTION = "6e9b1d5e-0c5e-4a39-8b5c-3d9f3d0c9a11"
SERVER = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
OTHER = "ffffffff-4e5f-4a6b-8c7d-9e0f1a2b3c4d"

TEMPLATE = "user_config_template.yaml.j2"

needs_daemon = pytest.mark.processes


def kit(where: Path, profile: str = "laptop", **changes: Any) -> Kit:
    values: dict[str, Any] = {
        "profile": profile,
        "name": "Ward 7",
        "folder": str(where),
        "config": "/srv/counterseal/site.yaml",
        "function": FUNCTION,
        "program": "/opt/counterseal/bin/counterseal",
        "daemon": str(DAEMON),
        "user": "fedendpoint",
        "batch": Batch() if profile in {"slurm", "pbs"} else None,
        "pod": Pod(image="registry.example/counterseal:1", claim="site", mount=str(where.parent))
        if profile == "kubernetes"
        else None,
    }
    if profile == "kubernetes":
        values["config"] = f"{where.parent}/site.yaml"
    return Kit.model_validate({**values, **changes})


def asked(folder: Path, *identities: str) -> dict[str, Any]:
    """What the daemon's own code makes of ``folder``."""
    done = subprocess.run(
        [DAEMON.with_name("python"), Path(__file__).with_name("daemon_oracle.py"), folder, *identities],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": f"{DAEMON.parent}:/usr/bin:/bin", "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


PROFILES: dict[str, tuple[dict[str, Any], str]] = {
    "laptop": ({}, "LocalProvider"),
    "ec2": ({}, "LocalProvider"),
    "kubernetes": ({}, "LocalProvider"),
    "slurm": (
        {
            "batch": Batch(
                partition="gpu",
                account="proj-1",
                qos="normal",
                constraint="a100",
                walltime="12:00:00",
                gpus=2,
                cores=8,
                memory=64,
                exclusive=True,
                scheduler_options='#SBATCH --mail-type=END\n#SBATCH --comment="{{ x }} {% y %}"\n',
                interface="lo",
                idle_seconds=30,
            ),
            "worker_init": "module load cuda\n. /etc/profile.d/x.sh # {# not a comment #}",
        },
        "SlurmProvider",
    ),
    "pbs": (
        {
            "batch": Batch(partition="workq", account="proj-1", gpus=1, memory=32, interface="lo"),
            "worker_init": "ulimit -c 0",
        },
        "PBSProProvider",
    ),
}


@needs_daemon
@pytest.mark.parametrize("profile", PROFILES)
def test_the_daemon_s_own_code_loads_every_profile(tmp_path: Path, profile: str) -> None:
    changes, provider = PROFILES[profile]
    made = kit(tmp_path / "ward-7", profile, authentication_policy=OTHER, **changes)
    write_folder(made)
    told = asked(tmp_path / "ward-7")
    assert told["core"] == "CoreEndpointConfig" and told["user"] == "UserEndpointConfig"
    assert told["allowed_functions"] == [FUNCTION] and told["public"] is False and told["policy"] == OTHER
    assert told["display_name"] == "Ward 7"
    assert told["rendered_is_written"], "Jinja found something to do"
    assert told["engine"] == "GlobusComputeEngine" and told["provider"] == provider and told["encrypted"] is True
    assert told["serializers"] == ["JSONData", "PureSourceTextInspect"]
    assert (told["workers"], told["retries"]) == (2, 0)
    assert told["blocks"][2:] == [1, 1], "one block of one node: the state folder has one lock"
    assert told["addresses"] == ["127.0.0.1"], "nobody on the Internet is asked for an address"
    assert told["refused"] == [True, True, True], "a server sends no options"
    assert f"export COUNTERSEAL_SITE={made.launcher}\n" in told["worker_init"]
    assert told["worker_init"].startswith(made.worker_init)
    if profile == "slurm":
        for line in (
            "partition=gpu",
            "account=proj-1",
            "qos=normal",
            "constraint=a100",
            "gpus-per-node=2",
            "exclusive",
        ):
            assert f"#SBATCH --{line}\n" in told["scheduler_options"]
        assert '#SBATCH --comment="{{ x }} {% y %}"' in told["scheduler_options"]
    if profile == "pbs":
        assert told["select_options"] == "ngpus=1:mem=32gb"


@needs_daemon
@pytest.mark.parametrize("run_as", [None, "fedsite"])
def test_the_daemon_maps_the_server_and_nobody_else(tmp_path: Path, run_as: str | None) -> None:
    users = MultiUser(server=SERVER, user="fedworker", email="it@hospital.example")
    write_folder(kit(tmp_path / "ward", multi_user=users, user="root", run_as=run_as))
    told = asked(tmp_path / "ward", SERVER, OTHER)
    assert told["mapped"] == [[[{SERVER: ["fedworker"]}]], [[]]]
    assert told["email"] == "it@hospital.example"
    assert told["pam"] == ([True, "counterseal-endpoint"] if run_as else [False, "globus-compute-endpoint"])


@needs_daemon
def test_a_wrong_key_is_noticed_by_the_daemon_s_code(tmp_path: Path) -> None:
    write_folder(kit(tmp_path / "ward"))
    path = tmp_path / "ward" / "user_config_template.yaml.j2"
    path.write_text(path.read_text().replace("max_workers_per_node", "max_workers"))
    with pytest.raises(AssertionError, match="max_workers"):
        asked(tmp_path / "ward")


def test_the_function_s_code_is_written_as_the_worker_takes_it() -> None:
    from counterseal.runtime.transports.compute import service

    code = [name for name in SERIALIZERS if name.endswith("PureSourceTextInspect")]
    assert code and code[0].rpartition(".")[2] in Path(service.__file__).read_text()


SHOW = """#!/bin/sh
printf '%s\\0' "$@" > {folder}/arguments
/usr/bin/env -0 > {folder}/environment
cat
"""


def _program(folder: Path, name: str = "counterseal") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SHOW.format(folder=shell(str(folder))))
    path.chmod(0o755)
    return path


def _launch(
    folder: Path, *arguments: str, **environment: str
) -> tuple[list[str], dict[str, str], subprocess.CompletedProcess[bytes]]:
    done = subprocess.run(
        [folder / "ward" / "deliver", *arguments], input=b"{}\x00\xff", capture_output=True, env=environment, timeout=20
    )
    if done.returncode:
        return [], {}, done
    got = (folder / "arguments").read_bytes().split(b"\0")[:-1]
    env = dict(one.decode().split("=", 1) for one in (folder / "environment").read_bytes().split(b"\0")[:-1])
    return [one.decode() for one in got], env, done


def test_the_launcher_hands_over_bytes_and_only_what_is_named(tmp_path: Path) -> None:
    made = kit(tmp_path / "ward", program=str(_program(tmp_path)), keep=("DATA_ROOT",))
    write_folder(made)
    given = {
        "HOME": "/home/x",
        "CUDA_VISIBLE_DEVICES": "",
        "SLURM_JOB_ID": "7 $(id)",
        "DATA_ROOT": "/d",
        "GLOBUS_COMPUTE_CLIENT_SECRET": "the-secret",
        "PYTHONPATH": "/evil",
        "LD_PRELOAD": "",
        "COUNTERSEAL_SITE": "x",
        "SLURM_CONF": "y",
    }
    arguments, environment, done = _launch(tmp_path, **given)
    assert done.stdout == b"{}\x00\xff"
    assert arguments == ["site", "answer", "--config", "/srv/counterseal/site.yaml"]
    shown = {name: value for name, value in environment.items() if name not in {"PWD", "SHLVL", "_", "OLDPWD"}}
    assert shown == {
        "PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/x",
        "CUDA_VISIBLE_DEVICES": "",
        "SLURM_JOB_ID": "7 $(id)",
        "DATA_ROOT": "/d",
    }
    assert _launch(tmp_path, "probe")[0][1] == "probe"
    for wrong in (("answer",), ("probe", "x"), ("",), ("--config", "/etc/passwd")):
        assert _launch(tmp_path, *wrong)[2].returncode == 64


NASTY = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=30).map(
    lambda one: one.replace("/", "_")
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("a'b\"c;$(touch x)`id`")
@example("{{ 7 * 7 }}{% raw %}{# x #}")
@example("- &a *a !!python/object: |\u2028\x85")
@example(" ~%n$HOME\\ ")
@given(NASTY)
def test_nasty_paths_reach_the_program_as_they_are(tmp_path: Path, name: str) -> None:
    shutil.rmtree(tmp_path / "ward", ignore_errors=True)
    config = f"/srv/{name}/site.yaml"
    try:
        made = kit(tmp_path / "ward", config=config, program=str(_program(tmp_path)))
    except ValidationError:
        assert name in {".", ".."} or not name.isprintable(), "only what nobody can read is refused"
        return
    write_folder(made)
    assert _launch(tmp_path)[0] == ["site", "answer", "--config", config]
    assert read_kit(tmp_path / "ward") == made
    assert config.replace("'", "'\"'\"'") in shlex.join(commands(made)[0]) or config in shlex.join(commands(made)[0])


@settings(max_examples=300, deadline=None)
@example('{{ x }}{% y %}{# z #}\x85\u2028\U0001f600"\\\n\t#: -')
@given(st.text(st.characters(codec="utf-8")))
def test_a_text_survives_jinja_and_yaml(text: str) -> None:
    written = f"value: {yaml_text(text)}\n"
    rendered = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(written).render()
    assert yaml.safe_load(rendered) == {"value": text}


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": "/srv/a b"},
        {"folder": "/srv/$(id)"},
        {"folder": "relative"},
        {"folder": "/srv/../etc"},
        {"folder": "/srv/-x"},
        {"folder": "/srv/x\n"},
        {"config": "/srv/a\nb"},
        {"config": "site.yaml"},
        {"config": "/srv/../site.yaml"},
        {"program": "counterseal"},
        {"daemon": "/opt/a b/globus-compute-endpoint"},
        {"function": FUNCTION.upper()},
        {"function": "not-a-function"},
        {"name": "x\ny"},
        {"name": "{{ x }}"},
        {"user": "root"},
        {"user": "a b"},
        {"run_as": "fedendpoint"},
        {"run_as": "root"},
        {"run_as": "#0"},
        {"run_as": "fedsite", "config": "/srv/a*/site.yaml"},
        {"run_as": "fedsite", "keep": ("LD_LIBRARY_PATH",)},
        {"run_as": "fedsite", "keep": ("PATH",)},
        {"run_as": "fedsite", "keep": ("OPENSSL_CONF",)},
        {"run_as": "fedsite", "keep": ("SSL_CERT_FILE",)},
        {"keep": ("LD_PRELOAD",)},
        {"keep": ("PYTHONPATH",)},
        {"keep": ("GLOBUS_COMPUTE_CLIENT_SECRET",)},
        {"keep": ("A=B",)},
        {"worker_init": "a\x1b[2J"},
        {"multi_user": {"server": SERVER, "user": "fedworker", "email": "a@b.example"}},
        {"multi_user": {"server": SERVER, "user": "root", "email": "a@b.example"}, "user": "root"},
        {"multi_user": {"server": "everybody", "user": "x", "email": "a@b.example"}, "user": "root"},
        {"batch": {}},
        {"pod": {"image": "x", "claim": "y", "mount": "/srv"}},
        {"test_cloud": "http://cloud.example:80"},
    ],
)
def test_what_cannot_be_written_safely_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kit(tmp_path / "ward", **changes)


@pytest.mark.parametrize(
    "batch",
    [
        {"partition": "gpu; id"},
        {"account": "a b"},
        {"partition": "-x"},
        {"walltime": "1 hour"},
        {"scheduler_options": "#SBATCH --x\nrm -rf /"},
        {"scheduler_options": "id"},
        {"interface": "$(id)"},
        {"gpus": -1},
    ],
)
def test_what_a_scheduler_would_obey_is_refused(tmp_path: Path, batch: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kit(tmp_path / "ward", "slurm", batch=batch)


def test_a_pod_has_no_rights_and_sees_its_claim_only(tmp_path: Path) -> None:
    made = kit(tmp_path / "Ward_7", "kubernetes")
    value = json.loads(files(made)["statefulset.json"][0])
    pod = value["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert value["metadata"]["name"] == "counterseal-ward-7" and value["spec"]["replicas"] == 1
    assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["command"] == [str(DAEMON), "start", "Ward_7"]
    for changes in ({"run_as": "fedsite"}, {"config": "/elsewhere/site.yaml"}):
        with pytest.raises(ValidationError):
            kit(tmp_path / "Ward_7", "kubernetes", **changes)


def test_sudo_lets_through_exactly_the_two_commands_of_the_launcher(tmp_path: Path) -> None:
    made = kit(tmp_path / "ward", run_as="fedsite")
    text, script = sudoers(made), launcher(made)
    answer, probe = (" ".join(one) for one in commands(made))
    assert f"Cmnd_Alias COUNTERSEAL = {answer}, {probe}\n" in text
    assert "fedendpoint ALL = (fedsite) NOPASSWD: COUNTERSEAL\n" in text
    assert "/usr/bin/sudo -n -H -u fedsite -- " in script
    assert answer in script and probe in script and "${HOME+" not in script and "${TMPDIR+" not in script
    assert "HOME" not in text and "TMPDIR" not in text.replace("SLURM_TMPDIR", "")
    write_folder(made)
    if (visudo := shutil.which("visudo", path=f"{os.environ['PATH']}:/usr/sbin")) is not None:
        done = subprocess.run([visudo, "-csf", tmp_path / "ward" / "sudoers"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_units_start_as_nobody_they_should_not(tmp_path: Path) -> None:
    text = files(kit(tmp_path / "ward", "ec2", client=SERVER))["endpoint.service"][0]
    assert "User=fedendpoint\n" in text and "NoNewPrivileges=yes" in text and "IPAddressDeny=169.254.169.254" in text
    assert f'Environment="GLOBUS_COMPUTE_CLIENT_ID={SERVER}"' in text and "SECRET=..." in text
    sudo = files(kit(tmp_path / "ward", "ec2", run_as="fedsite"))["endpoint.service"][0]
    assert "NoNewPrivileges" not in sudo and "RestrictSUIDSGID" not in sudo
    systemd = shutil.which("systemd-analyze")
    if systemd is not None and DAEMON.is_file():
        path = tmp_path / "counterseal-endpoint-ward.service"
        path.write_text(text.replace("User=fedendpoint", "User=daemon"))
        done = subprocess.run([systemd, "verify", path], capture_output=True, text=True)
        assert "ward.service" not in done.stderr, done.stderr


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "ward"
    folder.mkdir()
    (folder / "config.yaml").write_text("mine")
    with pytest.raises(EndpointError, match="did not write"):
        write_folder(kit(folder))
    assert (folder / "config.yaml").read_text() == "mine"
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(EndpointError, match="something else"):
            write_folder(kit(tmp_path / name))


def test_written_again_it_is_changed_and_the_daemon_s_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "ward"
    write_folder(kit(folder, run_as="fedsite"))
    (folder / "endpoint.json").write_text("{}")
    assert stat.S_IMODE((folder / "deliver").stat().st_mode) == 0o755
    assert (folder / "sudoers").is_file() and drift(read_kit(folder), folder) == ()
    write_folder(kit(folder))
    assert not (folder / "sudoers").exists() and (folder / "endpoint.json").read_text() == "{}"
    assert drift(read_kit(folder), folder) == ()


def _edit(name: str, old: str, new: str) -> Any:
    def harm(folder: Path) -> None:
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return harm


def _instead(folder: Path, make: Any) -> None:
    (folder / "deliver").unlink()
    make(folder / "deliver")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_edit(TEMPLATE, 'worker_init: "', 'worker_init: "{{ worker_init }}'), "user_config_template.yaml.j2:25: should"),
        (_edit("user_config_schema.json", "false", "true"), "user_config_schema.json:6: should not be there"),
        (_edit("config.yaml", "heartbeat", f'  - "{OTHER}"\nheartbeat'), f'config.yaml:6: should not be there: - "{OTHER}"'),
        (_edit("config.yaml", "public: false", "public: true"), "config.yaml:3: "),
        (_edit("deliver", "exec /usr/bin/env -i", "exec /usr/bin/env"), "deliver:10: "),
        (lambda folder: (folder / "deliver").chmod(0o777), "deliver: can be written by others"),
        (lambda folder: (folder / "deliver").chmod(0o644), "deliver: has mode 0644"),
        (lambda folder: folder.chmod(0o777), ".: can be written by others"),
        (lambda folder: (folder / "user_config_schema.json").unlink(), "user_config_schema.json: is missing"),
        (lambda folder: (folder / "config.py").write_text("config = 1"), "config.py: is no file of this kit"),
        (lambda folder: _instead(folder, lambda path: os.mkfifo(path)), "deliver: is no file that can be read"),
        (lambda folder: _instead(folder, lambda path: path.symlink_to("/bin/sh")), "deliver: is no file that can be read"),
        (lambda folder: (folder / "deliver").write_text("x\n" * 100_000), "deliver:1: is missing: #!/bin/sh"),
    ],
)  # fmt: skip
def test_every_line_that_differs_is_named(tmp_path: Path, harm: Any, told: str) -> None:
    folder = tmp_path / "ward"
    write_folder(kit(folder))
    harm(folder)
    assert any(str(one).startswith(told) for one in drift(read_kit(folder), folder)), list(
        map(str, drift(read_kit(folder), folder))
    )


def test_a_record_is_checked_like_options(tmp_path: Path) -> None:
    folder = tmp_path / "ward"
    with pytest.raises(EndpointError, match="not a folder of this kit"):
        read_kit(folder)
    write_folder(kit(folder))
    before = os.umask(0o077)
    try:
        write_folder(kit(tmp_path / "narrow"))  # whatever the administrator's own umask is
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "narrow").stat().st_mode) == 0o755
    for text in ("{", "[]", (folder / RECORD).read_text().replace("fedendpoint", "root")):
        (folder / RECORD).write_text(text)
        with pytest.raises(EndpointError, match="not a record"):
            read_kit(folder)
    assert len(set(KEPT)) == len(KEPT) and all(name.replace("_", "").isalnum() for name in KEPT)


def test_the_daemon_s_login_is_kept_from_its_children(tmp_path: Path) -> None:
    """An unprivileged daemon would hand its account's secret on to every task; one of root starts with a clean environment."""
    login = {"GLOBUS_COMPUTE_CLIENT_ID": "", "GLOBUS_COMPUTE_CLIENT_SECRET": ""}
    alone = yaml.safe_load(environment_of(kit(tmp_path / "ward")))
    assert login.items() <= alone.items()
    users = MultiUser(server=SERVER, user="fedworker", email="it@hospital.example")
    assert (
        not login.keys() & yaml.safe_load(environment_of(kit(tmp_path / "ward", multi_user=users, user="root"))).keys()
    )
