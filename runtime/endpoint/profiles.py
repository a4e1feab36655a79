"""What each profile asks of Parsl: one block, one node, two workers.

One block of one node, always: the state folder has one lock, and whether a lock on a shared file system excludes a process on
another node is something that the doctor can try, not something to build on. Two workers, so that a delivery that is repeated
while its first copy trains is answered `busy` at once. The engine never repeats a task by itself: when a delivery comes
again is the server's decision.

Left out on purpose: `worker_port_range` and `KubernetesProvider` with volumes. Both want tuples, which YAML does not have;
Parsl 2026.10.26 refuses the lists. A pod without a volume has no state folder that lasts, so the profile `kubernetes` is the
daemon itself in one pod with a claim (`pod.py`), and has no rights at the cluster's API, which what the server sends could use.
"""

from __future__ import annotations

from typing import Any

from .kit import Batch, Kit
from .quoting import shell

__all__ = ["SERIALIZERS", "engine", "heartbeat", "idle_heartbeats"]

SERIALIZERS = ("globus_compute_sdk.serialize.JSONData", "globus_compute_sdk.serialize.PureSourceTextInspect")
"""What a worker takes: arguments as JSON, code as its source text. Nothing that arrives is unpickled."""


def engine(kit: Kit) -> dict[str, Any]:
    """Return the engine of the template."""
    return {
        "type": "GlobusComputeEngine",
        "label": "counterseal",
        "encrypted": True,
        "max_workers_per_node": 2,
        "cores_per_worker": 0.5,  # two workers also on one core: the second only says that the first is busy
        "max_retries_on_system_failure": 0,
        "allowed_serializers": list(SERIALIZERS),
        "address": _address(kit),
        "job_status_kwargs": {
            "strategy": "simple",
            "max_idletime": float(kit.batch.idle_seconds if kit.batch else 300),
            "strategy_period": 5.0,
        },
        "provider": _provider(kit),
    }


def idle_heartbeats(kit: Kit) -> dict[str, int]:
    """Return after how many heartbeats the daemon's child ends: an hour without work, two weeks with work that never returns.

    Two weeks is what Globus keeps a task for; the daemon's own two days would end jobs that still wait in a queue.
    """
    period = heartbeat(kit)
    return {"idle_heartbeats_soft": 3_600 // period, "idle_heartbeats_hard": 14 * 86_400 // period}


def heartbeat(kit: Kit) -> int:
    """Return the seconds between two heartbeats: a stand-in is not waited for."""
    return 5 if kit.test_cloud else 30


def _address(kit: Kit) -> str | dict[str, str]:
    """Name the address: without one Parsl asks a third party on the Internet which address it has."""
    if kit.batch is None:
        return "127.0.0.1"
    if kit.batch.interface is not None:
        return {"type": "address_by_interface", "ifname": kit.batch.interface}
    return {"type": "address_by_hostname"}


def _provider(kit: Kit) -> dict[str, Any]:
    init = _worker_init(kit)
    if kit.batch is None:
        return {"type": "LocalProvider", "init_blocks": 1, "min_blocks": 1, "max_blocks": 1, "worker_init": init}
    common = {
        "nodes_per_block": 1,
        "init_blocks": 0,
        "min_blocks": 0,
        "max_blocks": 1,
        "walltime": kit.batch.walltime,
        "scheduler_options": kit.batch.scheduler_options.rstrip("\n"),
        "cmd_timeout": 120,
        "launcher": {"type": "SingleNodeLauncher"},
        "worker_init": init,
    }
    return (_slurm if kit.profile == "slurm" else _pbs)(kit.batch) | common


def _slurm(batch: Batch) -> dict[str, Any]:
    asked = {
        "type": "SlurmProvider",
        "partition": batch.partition,
        "account": batch.account,
        "qos": batch.qos,
        "constraint": batch.constraint,
        "gpus_per_node": batch.gpus or None,
        "cores_per_node": batch.cores,
        "mem_per_node": batch.memory,
        "exclusive": batch.exclusive,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _pbs(batch: Batch) -> dict[str, Any]:
    chosen = [f"ngpus={batch.gpus}"] if batch.gpus else []
    chosen += [f"mem={batch.memory}gb"] if batch.memory else []
    asked = {
        "type": "PBSProProvider",
        "queue": batch.partition,
        "account": batch.account,
        "cpus_per_node": batch.cores or 1,
        "select_options": ":".join(chosen),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _worker_init(kit: Kit) -> str:
    """Return the shell lines before a worker: schedulers may hand a job none of the daemon's environment."""
    own = kit.worker_init if not kit.worker_init or kit.worker_init.endswith("\n") else f"{kit.worker_init}\n"
    path = shell(kit.daemon.rpartition("/")[0])
    return f'{own}export PATH={path}:"$PATH"\nexport COUNTERSEAL_SITE={shell(kit.launcher)}\n'
