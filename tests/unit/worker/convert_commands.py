"""The commands about checkpoints, run as a user runs them, and what they wrote."""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from regraft_worker import cli_convert, cli_inspect, cli_params

ASSETS = Path(__file__).parents[2] / "assets" / "modelzoo"
State = dict[str, torch.Tensor]


def run(*words: object, ends: int = 0, asks_transformers: bool = False) -> Result:
    """A command's end; conversions without `transformers`, which takes seconds to start, unless asked for."""
    if words[0] == "convert" and not asks_transformers:
        words = (*words, "--no-transformers")
    app = typer.Typer()
    for name, function in {
        "convert": cli_convert.convert,
        "convert-config": cli_convert.convert_config,
        "list": cli_inspect.list_,
        "info": cli_inspect.info,
        "diff": cli_inspect.diff,
        "params": cli_params.params,
    }.items():
        app.command(name)(function)
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == ends, done.output
    return done


def convert(source: Path, src: str, tgt: str, folder: Path, *options: object) -> Path:
    done = run("convert", source, "--src-fmt", src, "--tgt-fmt", tgt, "--output-dir", folder, *options)
    return Path(done.stdout.splitlines()[0].removeprefix("Checkpoint saved to "))


def cs_state(path: Path) -> State:
    content = torch.load(path, weights_only=True)
    assert list(content) == ["model"]
    return dict(content["model"])


def hf_state(folder: Path) -> State:
    state: State = {}
    for path in [folder] if folder.is_file() else sorted(folder.iterdir()):
        if path.suffix in (".bin", ".safetensors"):
            state |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return state
