"""`csctl`: jobs of the cluster, listed, shown, labelled, cancelled and given another priority.

    csctl [-n NAMESPACE] get jobs [-a] [-l KEY=VALUE[,...]] [-o json]
    csctl get job ID [-o json]; csctl job list [-a]; csctl cancel job ID; csctl label job ID KEY=VALUE KEY-
    csctl job set-priority ID p2

Of `-o json` only `.meta.name`, `.meta.labels` and `.status.phase` are known; the rest is a guess.
Every call is written to `calls.jsonl` in the state folder.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from appliance.board import ENDED, Board, Job

_COLUMNS = ("NAME", "TYPE", "AGE", "DURATION", "PHASE", "PRIORITY", "SYSTEMS", "USER", "LABELS", "DASHBOARD")
_PRIORITIES = ("p1", "p2", "p3")


def main(state: Path, words: list[str]) -> int:
    """Run the program; its exit status."""
    with (state / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "words": words}) + "\n")
    board = Board(state)
    asked = board.control.read()
    if asked["csctl"] == "hang":
        time.sleep(3600)
    given, rest = _parser().parse_known_args(words)
    if asked["csctl"] == "unavailable" or not asked["reachable"]:
        return _error("rpc error: code = Unavailable desc = connection error: cannot reach the cluster server")
    if len(asked["namespaces"]) > 1 and given.namespace not in asked["namespaces"]:
        return _error(f"namespace must be one of {asked['namespaces']}; use --namespace")
    return _dispatch(board, given, rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="csctl", add_help=False)
    parser.add_argument("-n", "--namespace")
    parser.add_argument("-a", "--all-states", action="store_true")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("-l", "--label", default="")
    return parser


def _dispatch(board: Board, given: argparse.Namespace, rest: list[str]) -> int:
    match rest:
        case ["get", "jobs"] | ["job", "list"]:
            return _list(board, given)
        case ["get", "job", name]:
            return _show(board, name, given.output)
        case ["cancel", "job", name]:
            return _cancel(board, name)
        case ["label", "job", name, *pairs] if pairs:
            return _label(board, name, pairs)
        case ["job", "set-priority", name, priority]:
            return _prioritise(board, name, priority)
    return _error(f"unknown command {' '.join(rest)!r} for csctl")


def _list(board: Board, given: argparse.Namespace) -> int:
    """Without `-a` one's own that have not ended; with it all, of everybody."""
    wanted = dict(pair.partition("=")[::2] for pair in given.label.split(",") if pair)
    found = [job for job in board.jobs() if wanted.items() <= job["labels"].items()]
    if not given.all_states:
        found = [job for job in found if "client" in job and job["phase"] not in ENDED]
    if given.output == "json":
        print(json.dumps({"items": [_object(job) for job in found]}, indent=2))
        return 0
    now = board.control.now()
    rows = [_COLUMNS, *(_row(job, now) for job in reversed(found))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _show(board: Board, name: str, output: str) -> int:
    job = board.job(name)
    if job is None:
        return _not_found(name)
    if output == "json":
        print(json.dumps(_object(job), indent=2))
    else:
        print("\n".join("  ".join(row) for row in (_COLUMNS, _row(job, board.control.now()))))
    return 0


def _cancel(board: Board, name: str) -> int:
    job = board.job(name)
    if job is None:
        return _not_found(name)
    board.change(name, cancels=job.get("cancels", 0) + 1)
    if not board.end(name, "CANCELLED", message="cancelled by csctl"):
        return _error(f"job {name} has ended: {job['phase']}")
    print("Job canceled successfully")
    return 0


def _label(board: Board, name: str, pairs: list[str]) -> int:
    job = board.job(name)
    if job is None:
        return _not_found(name)
    labels: dict[str, str] = job["labels"]
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if equals:
            labels[key] = value
        elif pair.endswith("-"):
            labels.pop(pair[:-1], None)
        else:
            return _error(f"invalid label {pair!r}")
    board.change(name, labels=labels)
    print(f"job/{name} was patched")
    return 0


def _prioritise(board: Board, name: str, priority: str) -> int:
    if priority not in _PRIORITIES:
        return _error(f"invalid priority {priority!r}")
    if not board.change(name, priority=priority):
        return _not_found(name)
    print(f"job/{name} was patched")
    return 0


def _object(job: Job) -> dict[str, Any]:
    spec = {"priority": job["priority"], "user": {"uid": str(os.getuid()), "gid": str(os.getgid())}}
    status = {"phase": job["phase"], "message": job["message"], "systems": _systems(job), "user": _user(job)}
    meta = {"name": job["id"], "type": "job", "labels": job["labels"], "createTime": _iso(job["created"])}
    return {"meta": meta, "spec": {**spec, "type": job["kind"]}, "status": status}


def _row(job: Job, now: float) -> tuple[str, ...]:
    end = job["ended"] or now
    duration = _span(end - job["started"]) if job["started"] is not None else ""
    labels = ",".join(f"{key}={value}" for key, value in job["labels"].items())
    first = (job["id"], job["kind"], _span(now - job["created"]), duration, job["phase"], job["priority"])
    return (
        *first,
        ",".join(_systems(job)),
        _user(job),
        labels,
        f"https://grafana.invalid/d/WsJob?var-wsjob={job['id']}",
    )


def _systems(job: Job) -> list[str]:
    runs = job["phase"] in ("SCHEDULED", "INITIALIZING", "RUNNING", "FAILING")
    return [f"system-{number}" for number in range(job["systems"])] if runs else []


def _user(job: Job) -> str:
    return str(job["user"]) or getpass.getuser()


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _not_found(name: str) -> int:
    return _error(f"rpc error: code = NotFound desc = job {name} not found")


def _error(message: str) -> int:
    print(f"Error: {message}", file=sys.stderr)
    return 1
