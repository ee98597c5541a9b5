"""What the commands that convert refuse whatever they are told: folders in the way, exports that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from convert_commands import convert, run
from convert_samples import sample
from pydantic import ValidationError
from typer.testing import CliRunner

from regraft.errors import ConflictError, InvalidInputError
from regraft.specs.stages import ExportTask
from regraft_worker import cli_convert, cli_inspect


def test_a_folder_is_no_file_that_may_be_replaced_nor_a_file_a_folder(tmp_path: Path) -> None:
    base, out = sample(tmp_path / "base"), tmp_path / "out"
    there = convert(base, "hf", "cs-2.2", tmp_path / "cs")
    for name in ("pytorch_model_to_cs-2.2.mdl", "config_to_cs-1.8.yaml"):
        (out / name).mkdir(parents=True)
        (out / name / "thesis").write_bytes(b"a year")
    (out / f"{there.stem}_to_hf").write_bytes(b"a year")
    before = sorted(out.rglob("*"))
    words = ("--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--output-dir", out, "--overwrite")
    for command in (
        lambda: convert(base, "hf", "cs-2.2", out, "--overwrite"),
        lambda: convert(base, "hf", "cs-1.8", out, "--overwrite"),
        lambda: convert(there, "cs-2.2", "hf", out, "--overwrite"),
        lambda: run("convert-config", base / "config.json", *words),
    ):
        with pytest.raises(ConflictError, match=r"the output is a f.*, and there is a f"):
            command()
        assert sorted(out.rglob("*")) == before


def test_an_export_without_a_head_has_to_be_of_hugging_face(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command("export")(cli_convert.export)
    app.command("other")(cli_inspect.info)
    words = ["export", "--checkpoint", str(sample(tmp_path / "base")), "--output-dir", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--headless", "--format", "cs-2.9"])
    assert isinstance(done.exception, InvalidInputError)
    assert done.exception.field == "--headless"
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValidationError, match=r"a \.mdl always has a head"):
        ExportTask(checkpoint_uri="/a", formats=("cs-2.9",), output_uri="/b", headless=True)
