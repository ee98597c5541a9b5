"""The file in which `regraft up` keeps its key, and how the command line finds a key.

The file can be read by its owner alone. Its key is sent to this machine only: whoever names another one with
REGRAFT_API_URL must name a key as well.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from regraft.environment import variable

NAME = "api-key"


def find_key(url: str) -> str:
    """REGRAFT_API_KEY or its file, else for an API on this machine the key of its `regraft up`; empty if none."""
    named = variable("REGRAFT_API_KEY")
    if named or not is_loopback(urlsplit(url).hostname or ""):
        return named
    return read_key(Path(os.environ.get("REGRAFT_HOME") or "~/.regraft").expanduser())


def read_key(home: Path) -> str:
    """The key in a folder of `regraft up`; empty if there is none."""
    try:
        return (home / NAME).read_text().strip()
    except (FileNotFoundError, PermissionError):
        return ""


def write_key(home: Path, key: str) -> Path:
    """Keep a key, readable by its owner alone from its first byte on."""
    path = home / NAME
    draft = home / f".{NAME}-{os.getpid()}"
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123  # a descriptor
        file.write(key + "\n")
    draft.replace(path)
    return path


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
