"""What images install: the third-party requirements of distributions of this repository, and whether the lock was kept.

    python services/requirements.py list shared services/worker[adamw8bit]    # one requirement a line
    python services/requirements.py check requirements.lock                   # of the environment that runs it

`list` lets an image install everything from elsewhere first, in a layer of its own that a change of our code leaves as
it is. Needs nothing but Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path

OURS = "regraft"
# What torch's CUDA builds bring: each release of torch names their exact versions itself.
PINNED_BY_TORCH = re.compile(r"(nvidia|cuda)-.*|triton")
REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[([^\]]*)\])?(.*)")


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def third_party(projects: Iterable[str]) -> list[str]:
    """The requirements of these folders (with extras in brackets) that are no project of this repository."""
    return sorted({requirement for project in projects for requirement in _of(project)})


def _of(project: str) -> Iterator[str]:
    folder, extras, _ = _parts(project)
    table = tomllib.loads((Path(folder) / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*table.get("dependencies", [])]
    for extra in extras:
        wanted += table["optional-dependencies"][extra]
    for requirement in wanted:
        name, more, _ = _parts(requirement)
        if normalised(name) == OURS:
            yield from _of(f"shared[{','.join(more)}]")
        else:
            yield requirement


def _parts(requirement: str) -> tuple[str, list[str], str]:
    """Name, extras, and the rest."""
    folder, _, rest = requirement.partition("[")
    if "/" in folder:
        return folder, [extra for extra in rest.rstrip("]").split(",") if extra], ""
    match = REQUIREMENT.match(requirement)
    assert match is not None, requirement
    return match[1], [extra for extra in (match[2] or "").split(",") if extra], match[3]


def unlocked(lock: str) -> list[str]:
    """What is installed here and is not what the lock names."""
    pinned = dict(line.split("==") for line in lock.split() if "==" in line)
    found = {normalised(one.metadata["Name"]): one.version.partition("+")[0] for one in distributions()}
    return [
        f"{name}=={version}"
        for name, version in sorted(found.items())
        if pinned.get(name) != version and not name.startswith(OURS) and not PINNED_BY_TORCH.fullmatch(name)
    ]


def main(command: str, *arguments: str) -> int:
    """The exit status."""
    if command == "list":
        sys.stdout.write("".join(f"{line}\n" for line in third_party(arguments)))
        return 0
    wrong = unlocked(Path(arguments[0]).read_text(encoding="utf-8"))
    sys.stderr.write("".join(f"not from the lock: {one}\n" for one in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
