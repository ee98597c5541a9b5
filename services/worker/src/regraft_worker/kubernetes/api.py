"""Kubernetes' API by plain HTTP: the few verbs that are needed, with the token and certificate of a service account."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any

from regraft.errors import RegraftError
from regraft.jobs import ReasonClass
from regraft_worker.kubernetes.options import Options

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
SECONDS = 30.0


class ApiError(RegraftError):
    """The API server refuses."""

    reason = "kubernetes_refused"
    reason_class = ReasonClass.INFRASTRUCTURE

    def __init__(self, status: int, message: str, *, path: str) -> None:
        super().__init__(
            f"the Kubernetes API server refuses ({status}): {message}",
            value=path,
            remedy="Check the worker's service account; docs/kubernetes.md lists what it must be allowed.",
        )
        self.status = status


class UnreachableError(RegraftError):
    """It does not answer. What runs in the cluster goes on."""

    reason = "kubernetes_unreachable"
    reason_class = ReasonClass.INFRASTRUCTURE


class Api:
    """One API server as one service account."""

    def __init__(self, options: Options) -> None:
        self._url, self._account = options.api.rstrip("/"), options.account
        certificate = options.account / "ca.crt"
        self._tls = ssl.create_default_context(cafile=str(certificate) if certificate.is_file() else None)

    def call(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, kind: str = "application/json"
    ) -> Json:
        """One request, one answer.

        Raises:
            ApiError: refused, with its status.
            UnreachableError: no answer.
        """
        with self._open(method, path, body, kind) as answer:
            try:
                found: Json = json.load(answer)
            except (OSError, HTTPException, ValueError) as error:
                raise UnreachableError(f"the Kubernetes API server broke off: {error}") from error
        return found

    def lines(self, path: str, *, seconds: float) -> Iterator[bytes]:
        """An answer that goes on, line by line; ends when the server ends it, or says nothing for `seconds`.

        Raises:
            ApiError, UnreachableError: as `call`.
        """
        with self._open("GET", path, None, "", seconds=seconds) as answer:
            try:
                yield from answer
            except (OSError, HTTPException):
                return  # who reads on asks again

    def _open(
        self, method: str, path: str, body: Mapping[str, object] | None, kind: str, *, seconds: float = SECONDS
    ) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, method=method)  # noqa: S310  # an operator's URL
        token = (self._account / "token").read_text(encoding="utf-8").strip()  # read anew: the kubelet replaces it
        request.add_header("Authorization", f"Bearer {token}")
        if data is not None:
            request.add_header("Content-Type", kind)
        try:
            found: HTTPResponse = urllib.request.urlopen(request, timeout=seconds, context=self._tls)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(error.code, _message(error.read()), path=path) from None
        except (OSError, HTTPException) as error:
            raise UnreachableError(f"the Kubernetes API server does not answer: {error}", value=self._url) from error
        return found


def query(**parameters: object) -> str:
    """`?a=b&c=d`."""
    return "?" + urllib.parse.urlencode(parameters)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body).get("message", ""))
    except (ValueError, AttributeError):
        return body[:200].decode(errors="replace")
