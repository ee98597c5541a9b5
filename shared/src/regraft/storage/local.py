"""The `file` scheme: URIs to paths and back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from regraft.errors import InvalidInputError


def local_path(uri: str, *, field: str = "uri") -> Path:
    """The absolute path that `uri` (a `file:` URI or a plain path) names.

    Raises:
        InvalidInputError: another scheme, a relative path in a `file:` URI, or the home of a user whom nobody knows.
    """
    if "://" not in uri:
        return _at_home(uri, field).absolute()
    parts = urlsplit(uri)
    if parts.scheme != "file":
        raise InvalidInputError(
            f"storage scheme '{parts.scheme}' is not available",
            field=field,
            value=uri,
            remedy="Use file:///absolute/path.",
            reason="unsupported_scheme",
        )
    if parts.netloc not in ("", "localhost"):
        raise InvalidInputError(
            "a file URI names no host", field=field, value=uri, remedy="Write file:///absolute/path (three slashes)."
        )
    return Path(unquote(parts.path))


def _at_home(path: str, field: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        remedy = "Write the folder's absolute path; ./~name is one that begins with a tilde."
        raise InvalidInputError("this user has no home here", field=field, value=path, remedy=remedy) from None


def to_uri(path: Path) -> str:
    """The `file:` URI of a path."""
    return path.absolute().as_uri()
