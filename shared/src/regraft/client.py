"""A small client of the REST API, for the command line. Programs generate theirs from `/openapi.json`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from regraft.errors import InvalidInputError, RegraftError
from regraft.jobs import JOB_ENDED
from regraft.keyfile import find_key

Json = dict[str, Any]
NO_KEY = "Set REGRAFT_API_KEY, or REGRAFT_HOME to the folder of the `regraft up` that is meant."


class ApiError(RegraftError):
    """The API refused, or does not answer."""

    reason = "api_error"


class UnreachableError(ApiError):
    """The API does not answer, or not now."""

    reason = "api_unreachable"


class Client:
    """Raises `ApiError` for whatever is not an answer. Without a `key` it looks for one, see `keyfile`."""

    def __init__(self, url: str, *, key: str | None = None, timeout: float = 30.0) -> None:
        self._url = url
        found = find_key(url) if key is None else key
        headers = {"Authorization": f"Bearer {found}"} if found else {}
        self._http = httpx.Client(base_url=url, timeout=timeout, headers=headers)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create_job(self, job: Mapping[str, Any], *, dry_run: bool = False, plan_hash: str | None = None) -> Json:
        """`POST /jobs`; sent again once when no answer came, which makes no second job.

        `dry_run`: the answer is the plan. `plan_hash`: refused if the job has another plan by now.
        """
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        query = {**({"dry_run": True} if dry_run else {}), **({"plan_hash": plan_hash} if plan_hash else {})}
        try:
            return self._call("POST", "/jobs", json=job, headers=headers, params=query)
        except UnreachableError:
            return self._call("POST", "/jobs", json=job, headers=headers, params=query)

    def plan_job(self, job: Mapping[str, Any]) -> Json:
        """`POST /jobs/plan`."""
        return self._call("POST", "/jobs/plan", json=job)

    def list_jobs(self, **query: Any) -> Json:
        """`GET /jobs`."""
        return self._call("GET", "/jobs", params={key: value for key, value in query.items() if value is not None})

    def get_job(self, job_id: str) -> Json:
        """`GET /jobs/{id}`."""
        return self._call("GET", f"/jobs/{job_id}")

    def act(self, job_id: str, action: str, *, body: Mapping[str, Any] | None = None) -> Json:
        """`POST /jobs/{id}/<action>`: cancel, pause, resume, retry."""
        return self._call("POST", f"/jobs/{job_id}/{action}", json=None if body is None else dict(body))

    def cancel_job(self, job_id: str) -> Json:
        """`POST /jobs/{id}/cancel`."""
        return self.act(job_id, "cancel")

    def clone_job(self, job_id: str, overrides: Mapping[str, Any]) -> Json:
        """`POST /jobs/{id}/clone`."""
        return self._call("POST", f"/jobs/{job_id}/clone", json={"overrides": dict(overrides)})

    def log_lines(self, job_id: str, stage: str, *, after: int = 0, **query: Any) -> Iterator[Json]:
        """Lines of a stage's output, page by page."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._pages(f"/jobs/{job_id}/logs/{stage}", after=after, limit=1000, **given)

    def get(self, path: str, **query: Any) -> Json:
        """Any other `GET`."""
        return self._call("GET", path, params=query)

    def create_key(self, *, name: str, scope: str, days: int | None) -> Json:
        """`POST /keys`."""
        return self._call("POST", "/keys", json={"name": name, "scope": scope, "days": days})

    def revoke_key(self, key_id: str) -> Json:
        """`DELETE /keys/{id}`."""
        return self._call("DELETE", f"/keys/{key_id}")

    def checkpoints(self, job_id: str) -> Json:
        """`GET /jobs/{id}/checkpoints`, its pages as one."""
        return {"data": list(self._pages(f"/jobs/{job_id}/checkpoints", limit=100))}

    def metrics(self, job_id: str, **query: Any) -> Json:
        """`GET /jobs/{id}/metrics`."""
        return self._call("GET", f"/jobs/{job_id}/metrics", params=query)

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Json]:
        """All events after a sequence number, page by page."""
        return self._pages(f"/jobs/{job_id}/events", after=after, limit=100)

    def watch(self, job_id: str, *, every: float = 0.5, patience: float = 60.0) -> Iterator[Json]:
        """The job again and again until it has ended; the last one yielded is its end.

        An API that is away is waited for `patience` seconds: it is the job that matters, not who tells of it.
        """
        ended = {str(status) for status in JOB_ENDED}
        heard = time.monotonic()
        while True:
            try:
                job = self.get_job(job_id)
            except UnreachableError:
                if time.monotonic() - heard > patience:
                    raise
            else:
                heard = time.monotonic()
                yield job
                if job["status"] in ended:
                    return
            time.sleep(every)

    def _pages(self, path: str, **query: Any) -> Iterator[Json]:
        while True:
            page = self._call("GET", path, params=query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["last_id"]

    def _call(self, method: str, path: str, **options: Any) -> Json:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"no answer from the API at {self._url}: {error}",
                remedy="Start it with `regraft up`, or set REGRAFT_API_URL.",
            ) from error
        body = _decode(response)
        if response.is_error:
            raise _refusal(response.status_code, body)
        return body


def _decode(response: httpx.Response) -> Json:
    try:
        body: Json = response.json()
    except ValueError as error:
        what = f"{response.status_code} {response.reason_phrase}"
        raise ApiError(f"{response.url} does not speak this API ({what})", remedy="Check REGRAFT_API_URL.") from error
    return body


def _refusal(status: int, body: Json) -> RegraftError:
    lines = [_fault_line(fault) for fault in body.get("errors", [])]
    message = "\n".join(lines) or body.get("detail") or body.get("title") or f"status {status}"
    error = {422: InvalidInputError, 503: UnreachableError}.get(status, ApiError)
    remedy = NO_KEY if status == 401 else ""
    return error(message.removesuffix("."), reason=body.get("code", ""), remedy=remedy)


def _fault_line(fault: Json) -> str:
    value = "" if fault.get("value") is None else f" (got {fault['value']!r})"
    remedy = f". {fault['remedy']}" if fault.get("remedy") else ""
    return f"{fault['field']}: {fault['message']}{value}{remedy}"
