"""Writes what follows from other files: the table of values in the chart's README, from the comments in its
values.yaml, and the part of its schema about `settings`, from the settings of the processes.

    python helm/document.py

A comment that begins with `# --` describes the value under it. A test refuses a README or a schema that is not current.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from regraft.settings import Settings

CHART = Path(__file__).parent / "regraft"
BEGIN, END = "<!-- values -->\n", "<!-- /values -->\n"
KEY = re.compile(r"( *)([\w./-]+):(?: |$)")
OWNED = {
    "home", "database_url", "redis_url", "storage_uri", "api_host", "api_port", "api_url", "api_key", "allowed_roots",
    "pulse_path", "kubernetes_pod", "kubernetes_runtime", "kubernetes_nodes", "kubernetes_node_devices",
    "kubernetes_device", "kubernetes_queue", "kubernetes_namespace", "kubernetes_api", "kubernetes_account",
}  # fmt: skip
"""Settings that follow from other values of the chart."""


def readme() -> str:
    """The README with its table made anew."""
    text = (CHART / "README.md").read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "".join(table((CHART / "values.yaml").read_text())) + END + after


def table(values: str) -> Iterator[str]:
    """One row for each value that is described."""
    defaults = yaml.safe_load(values)
    yield "| value | default | |\n|---|---|---|\n"
    for path, text in described(values):
        default = json.dumps(_at(defaults, path), ensure_ascii=False).replace("|", "\\|")
        yield f"| `{'.'.join(path)}` | `{default}` | {text} |\n"


def described(values: str) -> Iterator[tuple[list[str], str]]:
    """Path and description of each value that has one, in the order of the file."""
    path: list[str] = []
    comment: list[str] = []
    for line in values.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and comment:
            comment.append(stripped.removeprefix("# "))
        elif found := KEY.match(line):
            path = [*path[: len(found[1]) // 2], found[2]]
            if comment:
                yield list(path), " ".join(comment)
            comment = []


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def schema() -> str:
    """The schema of the values with its part about settings made anew."""
    found = json.loads((CHART / "values.schema.json").read_text())
    found["properties"]["settings"]["properties"] = dict(sorted(settings().items()))
    return json.dumps(found, indent=2) + "\n"


def settings() -> dict[str, Any]:
    """JSON schema of each setting that the chart hands on."""
    properties = Settings.model_json_schema()["properties"]
    shown = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "description")
    return {
        name: {key: field[key] for key in shown if key in field}
        for name, field in properties.items()
        if name not in OWNED
    }


def main() -> None:
    """Write both."""
    (CHART / "README.md").write_text(readme())
    (CHART / "values.schema.json").write_text(schema())


if __name__ == "__main__":
    main()
