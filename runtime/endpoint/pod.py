"""The Kubernetes profile: one pod that is the daemon and its workers, with a claim under it and no rights at the cluster.

A daemon that asks the cluster for a pod per block (Parsl's KubernetesProvider) needs the right to create pods, and what the
server sends could use it to mount any claim of the namespace. It also cannot mount the state folder (`profiles`). One pod of a
StatefulSet needs neither: it is made by the administrator, has no token of the API, and keeps its state across restarts.
"""

from __future__ import annotations

import json
from typing import Any

from .kit import Kit, Pod

__all__ = ["manifest", "pod_name"]


def pod_name(kit: Kit) -> str:
    """Return the endpoint's name as Kubernetes takes names."""
    name = "".join(one if one.isalnum() else "-" for one in kit.folder.rpartition("/")[2].lower())
    return f"counterseal-{name}"[:50].rstrip("-")


def manifest(kit: Kit, pod: Pod) -> str:
    """Return the StatefulSet as JSON, which every tool that reads YAML takes."""
    labels = {"app": pod_name(kit)}
    value = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": labels["app"], "namespace": pod.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "serviceName": labels["app"],
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(kit, pod, labels["app"])},
        },
    }
    return json.dumps(value, indent=2) + "\n"


def _pod(kit: Kit, pod: Pod, name: str) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pod.uid,
            "runAsGroup": pod.uid,
            "fsGroup": pod.uid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(kit, pod, name)],
        "volumes": [
            {"name": "site", "persistentVolumeClaim": {"claimName": pod.claim}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _container(kit: Kit, pod: Pod, name: str) -> dict[str, Any]:
    parent, _, endpoint = kit.folder.rpartition("/")
    amounts = {"cpu": str(pod.cores), "memory": f"{pod.memory}Gi"}
    if pod.gpus:
        amounts["nvidia.com/gpu"] = str(pod.gpus)
    environment = {"GLOBUS_COMPUTE_USER_DIR": parent, "HOME": "/tmp", "PATH": kit.path}  # noqa: S108  the pod's own
    if kit.client:
        environment["GLOBUS_COMPUTE_CLIENT_ID"] = kit.client
    return {
        "name": "endpoint",
        "image": pod.image,
        "command": [kit.daemon, "start", endpoint],
        "env": [{"name": key, "value": value.replace("$", "$$")} for key, value in environment.items()],
        "envFrom": [{"secretRef": {"name": f"{name}-login", "optional": True}}],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "site", "mountPath": pod.mount}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
