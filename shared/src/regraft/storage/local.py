"""The `file` scheme: URIs to paths and back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from regraft.errors import InvalidInputError


def local_path(uri: str, *, field: str = "uri") -> Path:
    """The absolute path that `uri` (a `file:` URI or a plain path) names.

    Raises:
        InvalidInputError: another scheme, or a relative path in a `file:` URI.
    """
    if "://" not in uri:
        return Path(uri).expanduser().absolute()
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


def to_uri(path: Path) -> str:
    """The `file:` URI of a path."""
    return path.absolute().as_uri()
