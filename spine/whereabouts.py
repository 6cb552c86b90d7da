"""Where the processes of a data folder listen: each says so in `services/<name>.json`."""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from spine.errors import NotFound, Reason
from spine.files import write_whole

# Said by a process that stays and cannot do its work, beside where it listens: why.
UNFIT: Final = "unfit"
REACH_S: Final = 0.5
# What binding says of an address that is none of this machine's.
NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def announce(data_dir: Path, name: str, host: str, port: int) -> None:
    """Say where a service listens; written whole or not at all."""
    said = {"host": host, "port": port, "pid": os.getpid()}
    write_whole(_service_file(data_dir, name), json.dumps(said).encode(), sync=False)


def service_target(data_dir: Path, name: str) -> str:
    """host:port of a service; NotFound if it was never started from this data folder."""
    try:
        kept = json.loads(_service_file(data_dir, name).read_text())
    except FileNotFoundError:
        raise NotFound(Reason.STARTING, f"{name} has not been started here") from None
    return f"{kept['host']}:{kept['port']}"


def service_targets(data_dir: Path, kind: str) -> dict[str, str]:
    """host:port of each process of a kind that was started from this data folder, by its name."""
    names = sorted(f.stem for f in (data_dir / "services").glob(f"{kind}*.json"))
    found = {}
    for name in names:
        if name == kind or name.startswith(f"{kind}-"):
            with suppress(NotFound, ValueError):
                found[name] = service_target(data_dir, name)
    return found


def addresses(setting: str | None) -> list[str]:
    """The host:port of each of those that a setting names with commas; none where it is unset."""
    return [address.strip() for address in (setting or "").split(",") if address.strip()]


def reachable_target(data_dir: Path, kind: str) -> str:
    """host:port of a process of a kind that takes connections; of the first if none does."""
    targets = list(service_targets(data_dir, kind).values())
    for target in targets if len(targets) > 1 else ():
        host, _, port = target.rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), REACH_S):
            return target
    return targets[0] if targets else service_target(data_dir, kind)


def remembered_port(data_dir: Path, name: str, host: str) -> int:
    """The port a service had last time if it is still free at that host, else 0: any free one."""
    try:
        port = int(json.loads(_service_file(data_dir, name).read_text())["port"])
    except (FileNotFoundError, ValueError, KeyError):
        return 0
    try:
        try_to_bind(host, port)
    except OSError:
        return 0
    return port


def try_to_bind(host: str, port: int) -> None:
    """OSError if somebody listens there already, at any address of that host that is one here, or
    if none is.

    A name may have others too, such as that of IPv6 on a machine without: nobody can listen there.
    """
    bound, elsewhere = False, None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM
    ):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # but for who listens
                probe.bind(address)
                bound = True
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            elsewhere = error
    if elsewhere is not None and not bound:
        raise elsewhere


def _service_file(data_dir: Path, name: str) -> Path:
    return data_dir / "services" / f"{name}.json"
