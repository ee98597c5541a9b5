"""A variable of the environment that may be given as a file instead: `NAME`, or `NAME_FILE` with a path.

For passwords and keys, as Docker and Kubernetes hand them out. The variable itself wins where both are there, so that a
process can hand its settings on to a child whatever it was started with.
"""

from __future__ import annotations

import os
from pathlib import Path

from regraft.errors import InvalidInputError

SUFFIX = "_FILE"


def variable(name: str) -> str:
    """Its value, else the content of the file that `NAME_FILE` names; empty if there is neither."""
    return os.environ.get(name) or from_file(name)


def from_file(name: str) -> str:
    """The content of the file that `NAME_FILE` names, without white space around it; empty if none is named.

    Raises:
        InvalidInputError: a file is named and cannot be read.
    """
    path = os.environ.get(name + SUFFIX, "")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"the file cannot be read: {error.strerror if isinstance(error, OSError) else 'it is not UTF-8'}",
            field=name + SUFFIX,
            value=path,
            remedy="Mount the secret there, readable by the user that this process runs as.",
        ) from error
