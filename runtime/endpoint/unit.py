"""A unit of systemd for an endpoint on a machine of its own: started at boot, started again, and let at as little as it needs.

`NoNewPrivileges` is left out where sudo has to work (`run_as`), and with it everything that implies it. On a machine of a
cloud the address of the instance's metadata is closed: whoever reaches it takes the machine's own role, and what the server
sends runs here.
"""

from __future__ import annotations

from .kit import Kit
from .quoting import systemd

__all__ = ["unit"]

_UNIT = """\
# Written by `counterseal site endpoint`. Install as /etc/systemd/system/counterseal-endpoint-{name}.service.
[Unit]
Description=Counterseal endpoint {name}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
Environment={directory}
Environment={path}
{client}# GLOBUS_COMPUTE_CLIENT_SECRET=... (and the id, if it is not above); root, 0600. The secret stands in no other file.
EnvironmentFile=-/etc/counterseal/endpoint-{name}.env
ExecStart={daemon} start {name}
Restart=on-failure
RestartSec=100
KillMode=mixed
TimeoutStopSec=60
UMask=0077
{hardening}
[Install]
WantedBy=multi-user.target
"""

_HARDENED = """\
NoNewPrivileges=yes
PrivateDevices=no
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes
"""

_METADATA = """\
# Not the metadata of the instance: its role is the machine's, and what the server sends runs here.
IPAddressDeny=169.254.169.254/32 fd00:ec2::254/128
"""


def unit(kit: Kit) -> str:
    """Return the unit. A restart waits out the daemon's own three heartbeats, in which it takes itself for running."""
    parent, _, name = kit.folder.rpartition("/")
    client = f"Environment={systemd(f'GLOBUS_COMPUTE_CLIENT_ID={kit.client}')}\n" if kit.client else ""
    hardening = "" if kit.run_as else _HARDENED
    return _UNIT.format(
        name=name,
        user=kit.user,
        directory=systemd(f"GLOBUS_COMPUTE_USER_DIR={parent}"),
        path=systemd(f"PATH={kit.path}"),
        client=client,
        daemon=kit.daemon,
        hardening=hardening + (_METADATA if kit.profile == "ec2" else ""),
    )
