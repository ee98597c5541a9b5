"""Plans: what is seen of a job's inputs, what is expected of its stages, what is advised and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from helpers import spec
from inputs import CONFIG, NEOX, write_checkpoint_headers
from regraft import planning
from regraft.cli import make_app
from regraft.embedded import free_port
from regraft.errors import InvalidInputError
from regraft.families import gptj
from regraft.jobs import StageName
from regraft.plan import task_for
from regraft.planning import Plan, offer_of, offers_of
from regraft.specs import JobSpec
from regraft.storage import publish

GPTJ_6B = gptj.FAMILY.read_config({"model_type": "gptj"})
CPU = {"devices": 1, "cores": 2, "memory_bytes": 16_000_000_000}
GPU = {"devices": 8, "name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85_000_000_000, "bf16": True}


@pytest.fixture
def job(tmp_path: Path) -> JobSpec:
    corpus = tmp_path / "corpus"
    corpus.write_text("text" * 16_000)  # 16,000 tokens at four bytes
    checkpoint = write_checkpoint_headers(tmp_path / "base")
    return spec(
        dataset={"uri": str(corpus), "max_sequence_length": 64},
        base_checkpoint={"uri": checkpoint.as_uri()},
        training={"max_steps": 10},
    )


def plan(job: JobSpec, storage: Path, **offered: Any) -> Plan:
    offers = offers_of([{"targets": offered or {"cpu": CPU}}])
    return planning.make_plan(job, planning.look(job), offers=offers, history=(), storage=storage.as_uri())


def test_a_plan_has_the_spec_the_stages_and_the_figures(job: JobSpec, tmp_path: Path) -> None:
    found = plan(job, tmp_path / "storage", gpu=GPU, cpu=CPU)
    assert found.spec["training"]["log_every_steps"] == 10
    assert [stage.expected for stage in found.stages] == ["unknown", "unknown", "run", "run", "run"]
    assert found.work is not None
    assert (found.work.steps, found.work.tokens) == (10, 10 * 8 * 64)
    assert (found.work.windows, found.work.windows_from) == (225, "estimate")  # nine tenths of 16,000 in 64s
    assert found.work.epochs == pytest.approx(80 / 225, abs=1e-4)
    asked, other = found.targets
    assert (asked.kind, asked.asked, other.kind, other.asked) == ("cpu", True, "gpu", False)
    assert asked.fits
    assert asked.micro_batch_size == 8
    assert asked.time is not None
    assert asked.time.seconds_low < asked.time.seconds_high  # type: ignore[operator]
    assert found.disk is not None
    assert found.disk.total == sum(
        getattr(found.disk, part) for part in ("base_checkpoint", "checkpoints", "exports", "dataset")
    )
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_one_pass_has_as_many_steps_as_the_corpus_has_windows(job: JobSpec, tmp_path: Path) -> None:
    free = job.model_copy(update={"training": job.training.model_copy(update={"max_steps": None})})
    work = plan(free, tmp_path).work
    assert work is not None
    assert work.steps == 29  # 225 windows in eights
    halved = free.training.model_copy(update={"data_subset": "0.0-0.5"})
    work = plan(free.model_copy(update={"training": halved}), tmp_path).work
    assert work is not None
    assert work.steps == 15


def published(storage: Path, job: JobSpec, stage: StageName, kind: str, made_by: dict[str, Any]) -> Path:
    folder = storage / kind / "0123"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with publish(folder, kind=kind[:-1]) as draft:
        (draft.folder / "file").write_text("x")
        draft.made_by = made_by
        draft.summary = {"train_examples": 40}
    return folder


def test_results_of_the_same_options_and_unchanged_inputs_are_found(job: JobSpec, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    task = task_for(StageName.PREPARE, job_id="other", spec=job, results={}, storage=storage.as_uri())
    published(storage, job, StageName.PREPARE, "datasets", task.model_dump(mode="json"))
    made_by = {"checkpoint_uri": job.base_checkpoint.uri.removeprefix("file://")}  # another spelling of the same
    converted = published(storage, job, StageName.CONVERT, "checkpoints", made_by)
    found = plan(job, storage)
    assert [stage.expected for stage in found.stages[:2]] == ["cached", "cached"]
    assert found.stages[1].uri == converted.as_uri()
    assert found.work is not None
    assert (found.work.windows, found.work.windows_from, found.work.epochs) == (40, "dataset", 2.0)
    # What decides about no byte does not matter, what does decide does.
    demanding = job.dataset.model_copy(
        update={"require": job.dataset.require.model_copy(update={"min_train_tokens": 9})}
    )
    assert plan(job.model_copy(update={"dataset": demanding}), storage).stages[0].expected == "cached"
    shorter = job.dataset.model_copy(update={"max_sequence_length": 32})
    assert plan(job.model_copy(update={"dataset": shorter}), storage).stages[0].expected == "unknown"


def test_a_changed_input_is_no_hit_and_moves_the_hash(job: JobSpec, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    task = task_for(StageName.PREPARE, job_id="other", spec=job, results={}, storage=storage.as_uri())
    published(storage, job, StageName.PREPARE, "datasets", task.model_dump(mode="json"))
    before = plan(job, storage)
    assert plan(job, storage).plan_hash == before.plan_hash
    corpus = Path(str(job.dataset.uri))
    later = corpus.stat().st_mtime + 3600
    os.utime(corpus, (later, later))
    after = plan(job, storage)
    assert after.stages[0].expected == "unknown"
    assert after.plan_hash != before.plan_hash
    warmer = job.training.model_copy(update={"learning_rate": 7e-6})
    assert plan(job.model_copy(update={"training": warmer}), storage).plan_hash != after.plan_hash


def test_what_is_not_here_is_not_made_up(job: JobSpec, tmp_path: Path) -> None:
    far = job.model_copy(update={"dataset": job.dataset.model_copy(update={"uri": "s3://bucket/corpus"})})
    found = plan(far, tmp_path)
    assert found.work is not None
    assert (found.work.windows, found.work.epochs, found.work.windows_from) == (None, None, "unknown")
    assert found.stages[0].why == "its input is not seen from here"
    blind = planning.make_plan(job, planning.NOTHING, offers=[offer_of("cpu", CPU)], history=(), storage="s3://x")
    assert (blind.work, blind.targets, blind.disk) == (None, (), None)


def test_a_compressed_corpus_tells_nothing_of_its_tokens(job: JobSpec, tmp_path: Path) -> None:
    packed = tmp_path / "corpus.jsonl.gz"
    packed.write_bytes(bytes(1000))
    other = job.model_copy(update={"dataset": job.dataset.model_copy(update={"uri": str(packed)})})
    work = plan(other, tmp_path).work
    assert work is not None
    assert work.windows_from == "unknown"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": {"max_steps": 200}}, "reads each training window about 7.11 times"),
        ({"training": {"learning_rate": 0.5}}, "trained from scratch with"),
        ({"recipe": "gptj-6b-trc2", "training": {"schedule": [{"constant": {"value": 1e-3}}]}}, "where the recipe"),
        ({"training": {"max_steps": 9, "schedule": [{"linear": {"from": 0, "to": 1e-6, "steps": 10}}]}}, "10 steps"),
        ({"dataset": {"max_sequence_length": 63}}, "the windows have 63 tokens and the model 128 positions"),
    ],
)
def test_advice(job: JobSpec, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    plain = job.model_dump(by_alias=True, exclude_unset=True)
    assert not any(words in warning for warning in plan(job, tmp_path).warnings)
    changed = {**plain, **change}
    if "dataset" in change:
        changed["dataset"] = {**plain["dataset"], **change["dataset"]}
    warnings = plan(JobSpec.model_validate(changed), tmp_path).warnings
    assert any(words in warning for warning in warnings), warnings


def test_the_wrong_activation_of_gptj_is_pointed_out(job: JobSpec, tmp_path: Path) -> None:
    assert plan(job, tmp_path).warnings == ()
    write_checkpoint_headers(tmp_path / "base", config=CONFIG | {"activation_function": "gelu"})
    (warning,) = plan(job, tmp_path).warnings
    assert "gelu_new" in warning
    write_checkpoint_headers(tmp_path / "base", config=NEOX | {"hidden_act": "gelu"})
    assert plan(job, tmp_path).warnings == ()


def refusal(job: JobSpec, **offered: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        planning.check_memory(job, GPTJ_6B, offers_of([{"targets": offered}]))
    return caught.value


def test_what_fits_no_device_is_refused_with_what_would_make_it_fit() -> None:
    job = spec(target={"kind": "gpu"}, training={"batch_size": 56, "precision": "bf16"})
    error = refusal(job, gpu=GPU)
    assert (error.field, error.value, error.reason) == ("target.kind", "gpu", "does_not_fit")
    assert "optimizer 48.4" in error.message
    assert "85.0 GB" in error.message
    assert "training.optimizer.name: adamw_8bit" in error.remedy
    assert "target.devices: 8" in error.remedy
    on_cpu = refusal(spec(), cpu=CPU)
    assert "adamw_8bit" not in on_cpu.remedy
    assert "Take a smaller model" in on_cpu.remedy


def test_what_may_fit_somewhere_is_not_refused() -> None:
    job = spec(target={"kind": "gpu"}, training={"batch_size": 8, "precision": "bf16"})
    large = {**GPU, "memory_bytes": 200_000_000_000}
    planning.check_memory(job, GPTJ_6B, offers_of([{"targets": {"gpu": GPU}}, {"targets": {"gpu": large}}]))
    unknown = {"devices": 8}
    planning.check_memory(job, GPTJ_6B, offers_of([{"targets": {"gpu": GPU}}, {"targets": {"gpu": unknown}}]))
    planning.check_memory(job, GPTJ_6B, [])
    planning.check_memory(spec(), replace(GPTJ_6B, num_layers=1), offers_of([{"targets": {"cpu": CPU}}]))


def test_a_batch_that_devices_cannot_share_is_refused() -> None:
    job = spec(target={"kind": "gpu", "devices": 3})
    with pytest.raises(InvalidInputError, match="3 devices cannot share") as caught:
        planning.check_options(job)
    assert caught.value.field == "training.batch_size"
    planning.check_options(spec(target={"kind": "gpu", "devices": 4}))


def write_job(folder: Path, **changes: Any) -> Path:
    (folder / "corpus").write_text("text" * 16_000)
    write_checkpoint_headers(folder / "base")
    job = {
        "dataset": {"uri": "corpus", "max_sequence_length": 64},
        "base_checkpoint": {"uri": "base"},
        "target": {"kind": "cpu"},
        "training": {"max_steps": 10},
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({**job, **changes}))
    return file


def test_the_command_plans_without_a_server_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_API_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path))
    result = CliRunner().invoke(make_app(), ["plan", str(write_job(tmp_path))])
    assert result.exit_code == 0, result.output
    assert "planned without a server" in result.stderr
    assert "10 steps, 0.356 epochs (estimate)" in result.stdout
    assert "cpu (1 x" in result.stdout
    assert "fits" in result.stdout


def test_the_command_plans_for_cards_of_the_table(tmp_path: Path) -> None:
    file = write_job(tmp_path, target={"kind": "gpu"})
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "gptj"}))
    result = CliRunner().invoke(make_app(), ["plan", str(file), "--device", "H100", "--device", "t4"])
    assert result.exit_code == 1, result.output
    assert "gpu (1 x H100): does not fit" in result.stdout
    assert "gpu (1 x T4): does not fit" in result.stdout
    assert (
        "would fit with training.activation_checkpointing: full, training.optimizer.name: adamw_8bit" in result.stdout
    )
    as_json = CliRunner().invoke(make_app(), ["plan", str(file), "--device", "H200", "--json"])
    assert Plan.model_validate_json(as_json.stdout).targets[0].device == "H200"


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    file = write_job(tmp_path, training={"max_steps": 0})
    result = CliRunner().invoke(make_app(), ["plan", str(file), "--local"])
    assert isinstance(result.exception, InvalidInputError)
    assert result.exception.field == "training.max_steps"
    with pytest.raises(InvalidInputError, match="no such card"):
        CliRunner().invoke(make_app(), ["plan", str(write_job(tmp_path)), "--device", "K80"], catch_exceptions=False)
