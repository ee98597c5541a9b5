"""Rules about the tree that no linter knows."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from regraft.cerebrassite import CerebrasSite
from regraft.cli import make_app
from regraft.jobs import JOB_TRANSITIONS, STAGE_TRANSITIONS
from regraft.settings import Settings

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py"))
EVERYTHING = sorted({*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").glob("*.py")})
DISTRIBUTIONS = sorted(ROOT.glob("*/pyproject.toml")) + sorted(ROOT.glob("services/*/pyproject.toml"))
BY_NAME = {"import_module", "find_spec", "__import__"}


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def names_used(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in nodes if isinstance(node, ast.Name)}


def test_only_discover_imports_by_name() -> None:
    guilty = {str(path.relative_to(ROOT)) for path in SOURCES if names_used(path) & BY_NAME}
    assert guilty == {"shared/src/regraft/discover.py"}


def python_commands(text: str) -> list[list[str]]:
    """The words of every `python -m ...` that is started as a list or a tuple."""
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.List | ast.Tuple))
    return [[ast.unparse(word).strip("'") for word in node.elts] for node in nodes if is_python(node)]


def is_python(node: ast.List | ast.Tuple) -> bool:
    words = [ast.unparse(word) for word in node.elts]
    return bool(words) and words[0] in ("sys.executable", "'python'") and "'-m'" in words


def test_no_child_process_imports_from_the_working_folder() -> None:
    """`python -m` puts it first on the path, and it may be one that was downloaded."""
    found = {path: python_commands(path.read_text()) for path in SOURCES}
    assert sum(map(len, found.values())) >= 10
    assert [f"{path}: {words}" for path, all_ in found.items() for words in all_ if words[1] not in ("-P", "-I")] == []
    assert python_commands('run([sys.executable, "-m", "a"])') == [["sys.executable", "-m", "a"]]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_setting_is_in_the_example_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^REGRAFT_(\w+)=(.*)$", text, re.MULTILINE))
    cerebras = {f"cerebras_{name}": field for name, field in CerebrasSite.model_fields.items()}
    for name, field in {**Settings.model_fields, **cerebras}.items():
        value = shown.pop(name.upper())
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert value == (default[:-2] if default.endswith(".0") else default), name
    assert not shown, "settings that do not exist"


def commands_in(text: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0].split() for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["regraft"]]


def test_every_command_in_the_documents_exists_with_its_options() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [words for document in documents for words in commands_in(document.read_text())]
    assert len(found) > 8
    for words in found:
        command, rest = resolve(words)
        assert not hasattr(command, "commands"), f"regraft {' '.join(words)}"
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, f"regraft {' '.join(words)}"


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after it."""
    command: Any = get_command(make_app())
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_the_readme_has_the_two_set_up_commands() -> None:
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"`make (\w+)", text):
        assert name in targets
    section = text.split("## Two commands")[1].split("##")[0]
    assert re.findall(r"^make (\w+)", section, re.MULTILINE) == ["demo", "test"]


def state_tables() -> str:
    """What `docs/job-states.md` has to say."""
    parts = ["# Job and stage states\n\nFrom the table in `regraft/jobs.py`; a test compares them.\n"]
    for title, table in (("Job", JOB_TRANSITIONS), ("Stage", STAGE_TRANSITIONS)):
        rows = [f"| `{old}` | {', '.join(f'`{new}`' for new in sorted(to)) or 'stays'} |" for old, to in table.items()]
        parts.append(f"\n## {title}\n\n| from | to |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def test_the_documented_states_are_those_of_the_code() -> None:
    assert (ROOT / "docs/job-states.md").read_text() == state_tables()


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=! ;]", name)[0]).lower()


@pytest.mark.parametrize("path", DISTRIBUTIONS, ids=lambda path: path.parent.name)
def test_every_dependency_is_locked(path: Path) -> None:
    project = tomllib.loads(path.read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(x for more in project.get("optional-dependencies", {}).values() for x in more),
    ]
    locked = {normalised(line): line for line in (ROOT / "requirements.lock").read_text().split() if "==" in line}
    asked = {normalised(line) for line in (ROOT / "requirements.in").read_text().splitlines() if line[:1].isalpha()}
    for name in {normalised(entry) for entry in wanted} - {"regraft"}:
        assert name in locked
        assert name in asked
