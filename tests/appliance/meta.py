"""`run_meta.json`, which all runs of a model_dir share, and the name of what was compiled."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

_LISTS = {"compile": "compile_jobs", "execute": "execute_jobs"}


class RunMeta:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, kind: str, job: str, workflow: str, *, namespace: str, path: str, now: float) -> None:
        """A job was submitted."""
        entry = {"namespace": namespace, "id": job, "workflow_id": workflow, "log_path": path, "start_time": _iso(now)}
        content = self._read()
        content.setdefault(_LISTS[kind], []).append(entry)
        self._write(content)

    def ended(self, job: str, now: float) -> None:
        """A job has ended."""
        content = self._read()
        for entries in content.values():
            for entry in entries:
                if entry["id"] == job:
                    entry["end_time"] = _iso(now)
        self._write(content)

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return found

    def _write(self, content: dict[str, Any]) -> None:
        self.path.write_text(json.dumps(content, indent=4))


def compile_key(content: dict[str, Any]) -> str:
    """What decides about the compiled model: model, batch, precision; not steps, rates or places."""
    if "trainer" in content:
        init, fit = content["trainer"]["init"], content["trainer"].get("fit", {})
        parts = [init["model"], init.get("precision"), (fit.get("train_dataloader") or {}).get("batch_size")]
    else:
        parts = [content["model"], content["train_input"].get("batch_size")]
    return "cs_" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
