"""A checkpoint of our trainer goes on as a Model Zoo run: encoding, state, and where the run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
import yaml
from tiny_runs import GPTJ, NEOX, Recorder, write_dataset, write_model

import zoo_runs
from regraft.errors import ConflictError
from regraft.families import detect
from regraft.specs import TrainTask
from regraft_worker.cerebras.carrying import write_step_mdl
from regraft_worker.cerebras.options import Options
from regraft_worker.cerebras.rendering import Places, render
from regraft_worker.conversion.cs_config import model_section
from regraft_worker.conversion.formats import format_named
from regraft_worker.conversion.hf import load_config
from regraft_worker.conversion.opened import open_checkpoint
from regraft_worker.trainer.loop import train

ENCODINGS = {"1.9": "torch-zip", "2.2": "torch-zip", "2.4": "torch-zip", "2.10": "hdf5-0.5"}
OPTIONS = Options(mgmt_address="a:1", mgmt_namespace="n", mount_dirs=("/",))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def task(folder: Path, *, config: dict[str, Any] | None = None) -> TrainTask:
    """Eight steps of a shuffled run without held-out windows, in the words that the cluster has, too."""
    if not (folder / "base").exists():
        write_model(folder / "base", config or {**GPTJ, "dtype": "float32"})
        write_dataset(folder / "dataset")
    options = {"max_steps": 8, "checkpoint": {"every_steps": 4, "keep_last": 9}, "evaluate": {}}
    made = tiny_runs.task(folder, folder / "run", **options)
    train(made, Recorder())
    return made


def values_of(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object], str]:
    with open_checkpoint(path) as opened:
        tensors = {name: lazy.whole().clone() for name, lazy in opened.tensors.items()}
        return tensors, dict(opened.values), opened.encoding


@pytest.mark.parametrize("release", list(ENCODINGS))
def test_a_step_is_in_the_encoding_that_the_release_reads(release: str, tmp_path: Path) -> None:
    made = task(tmp_path)
    start = tmp_path / "a.mdl"
    write_step_mdl(start, tmp_path / "run" / "step-00000004", training=made.training, release=release)
    tensors, values, encoding = values_of(start)
    assert encoding == ENCODINGS[release]
    assert values["global_step"] == 4
    position = values.get("dataloader.samples_streamed")
    assert position == (None if release == "1.9" else 16)
    assert any("exp_avg_sq" in name for name in tensors)
    with pytest.raises(ConflictError):
        write_step_mdl(start, tmp_path / "run" / "step-00000004", training=made.training, release=release)


def section(base: str, release: str) -> dict[str, object]:
    found = load_config(Path(base))
    family = detect(found)
    target, _ = format_named(f"cs-{release}", field="release")
    return model_section(found, family=family, architecture=family.read_config(found), target=target)


@pytest.mark.parametrize(
    ("release", "config"), [("2.2", GPTJ), ("2.4", NEOX), ("2.10", GPTJ)], ids=["flat", "neox", "trainer"]
)
def test_a_run_that_moves_to_the_cluster_ends_where_it_would_have_ended(
    release: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster's arithmetic is stood for by `regraft run CPU` on the params file that the cluster would get."""
    made = task(tmp_path, config={**config, "dtype": "float32"})
    step = tmp_path / "run" / "step-00000004"
    start = tmp_path / "a.mdl"
    write_step_mdl(start, step, training=made.training, release=release)
    monkeypatch.chdir(tmp_path)
    places = Places(
        data_dir=made.dataset_uri,
        model_dir=str(tmp_path / "out"),
        max_sequence_length=tiny_runs.LENGTH,
        checkpoint=str(start),
        resume=True,
    )
    found = render(
        made.training, section(made.checkpoint_uri, release), release=release, places=places, options=OPTIONS
    )
    Path("params.yaml").write_text(yaml.safe_dump(found.content))
    zoo_runs.run(tmp_path / "out", Path("params.yaml"))

    ours = tmp_path / "ours.mdl"
    write_step_mdl(ours, tmp_path / "run" / "step-00000008", training=made.training, release=release)
    there, _, _ = values_of(tmp_path / "out" / "checkpoint_8.mdl")
    here, _, _ = values_of(ours)
    weights = [name for name in here if name.startswith("model.")]
    assert max(float((here[name] - there[name]).abs().max()) for name in weights) < 1e-5
    before, _, _ = values_of(start)
    moved = max(float((before[name] - here[name]).abs().max()) for name in weights)
    assert moved > 1e-3  # four steps change weights by far more than the tolerance


def test_without_its_optimizer_a_run_would_end_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: the same start with the weights alone."""
    made = task(tmp_path)
    step = tmp_path / "run" / "step-00000004"
    start = tmp_path / "a.mdl"
    write_step_mdl(start, step, training=made.training, release="2.2")
    monkeypatch.chdir(tmp_path)
    places = Places(
        data_dir=made.dataset_uri,
        model_dir="out",
        max_sequence_length=tiny_runs.LENGTH,
        checkpoint=str(start),
        resume=False,
    )
    model = section(made.checkpoint_uri, "2.2")
    found = render(made.training, model, release="2.2", places=places, options=OPTIONS)
    Path("params.yaml").write_text(yaml.safe_dump(found.content))
    zoo_runs.run(tmp_path / "out", Path("params.yaml"))
    ours = tmp_path / "ours.mdl"
    write_step_mdl(ours, tmp_path / "run" / "step-00000008", training=made.training, release="2.2")
    there, _, _ = values_of(tmp_path / "out" / "checkpoint_8.mdl")
    here, _, _ = values_of(ours)
    weights = [name for name in here if name.startswith("model.")]
    assert max(float((here[name] - there[name]).abs().max()) for name in weights) > 1e-4
