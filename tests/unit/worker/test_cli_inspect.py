"""`regraft list`, `info`, `diff`, and params files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from convert_commands import ASSETS, convert, run
from convert_samples import sample

from regraft.errors import InvalidInputError

RELEASE = ASSETS / "release-1.8.0"


@pytest.fixture(params=["gptj", "gptneox"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sample(tmp_path / "base", request.param)


def test_list_shows_the_table() -> None:
    lines = run("list").stdout.splitlines()
    assert len(lines) == 9
    assert len(run("list", "gpt-neox").stdout.splitlines()) == 3
    with pytest.raises(InvalidInputError):
        run("list", "llama")


def test_info_says_what_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "odd.bin").touch()
    torch.save({"a.weight": torch.zeros(2, 3), "n": 5}, tmp_path / "odd.bin")
    lines = dict(line.split(maxsplit=1) for line in run("info", tmp_path / "odd.bin").stdout.splitlines())
    assert lines["format"].startswith("unknown")
    assert (lines["family"], lines["parameters"], lines["dtypes"]) == ("unknown", "6", "float32 x 1")
    shown = run("info", ASSETS / "hf_ckpt" / "neox_par").stdout
    for line in (
        "format       hf",
        "encoding     safetensors",
        "family       gpt-neox",
        "tensors      28",
        "parameters   165,632",
        "dtypes       float32 x 28",
        "global step  none",
        "optimizer    no",
    ):
        assert line + "\n" in shown
    with pytest.raises(InvalidInputError, match="no such file"):
        run("info", tmp_path / "none")


def test_diff_names_every_difference(tmp_path: Path) -> None:
    left = {"same": torch.ones(3), "shape": torch.ones(3), "type": torch.ones(3), "value": torch.ones(3)}
    right = {
        "same": torch.ones(3),
        "shape": torch.ones(4),
        "type": torch.ones(3, dtype=torch.bfloat16),
        "value": torch.tensor([1.0, 1.25, 1.0]),
    }
    torch.save({**left, "gone": torch.ones(1), "step": 1}, tmp_path / "a.bin")
    torch.save({**right, "step": 2}, tmp_path / "b.bin")
    a, b = tmp_path / "a.bin", tmp_path / "b.bin"
    assert run("diff", a, b, ends=1).stdout.splitlines() == [
        f"gone: only in {a}",
        "shape: shapes [3] and [4]",
        "type: dtypes float32 and bfloat16",
        "value: values differ by up to 0.25",
        "step: 1 and 2",
        "5 differences in 5 tensors",
    ]
    assert "value:" not in run("diff", a, b, "--tolerance", "0.25", ends=1).stdout
    assert run("diff", a, a).stdout == "no difference in 5 tensors\n"


def test_a_nan_is_a_difference_unless_both_have_it(tmp_path: Path) -> None:
    torch.save({"x": torch.tensor([1.0, float("nan")])}, tmp_path / "a.bin")
    torch.save({"x": torch.tensor([1.0, 2.0])}, tmp_path / "b.bin")
    assert "up to inf" in run("diff", tmp_path / "a.bin", tmp_path / "b.bin", "--tolerance", "9", ends=1).stdout
    run("diff", tmp_path / "a.bin", tmp_path / "a.bin")


def job_file(folder: Path) -> Path:
    job = {
        "dataset": {"uri": "corpus", "max_sequence_length": 16},
        "base_checkpoint": {"uri": "base"},
        "target": {"kind": "cpu"},
        "training": {"batch_size": 3, "max_steps": 40, "checkpoint": {"every_steps": 20}},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def test_a_params_file_beside_the_conversion(tmp_path: Path, base: Path) -> None:
    options = ("--params-out", tmp_path / "params.yaml", "--job", job_file(tmp_path), "--data-dir", "/data")
    there = convert(base, "hf", "cs-2.2", tmp_path / "cs", *options)
    content = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert content["runconfig"]["checkpoint_path"] == str(there)
    assert (content["train_input"]["batch_size"], content["eval_input"]["data_dir"]) == (3, "/data/eval")
    config = yaml.safe_load(there.with_name("config_to_cs-2.2.yaml").read_text())["model"]
    assert config.items() <= content["model"].items()
    for refused, field in ((("--tgt-fmt", "hf"), "--params-out"), (("--tgt-fmt", "cs-2.9"), "--data-dir")):
        words = ("convert", base, "--src-fmt", "hf", *refused, "--output-dir", tmp_path / "no")
        with pytest.raises(InvalidInputError) as caught:
            run(*words, "--params-out", tmp_path / "other.yaml")
        assert caught.value.field == field


def test_a_params_file_alone(tmp_path: Path) -> None:
    words = ("params", "--job", job_file(tmp_path), "--data-dir", "data", "-o", tmp_path / "params.yaml")
    done = run(*words, "--config", ASSETS / "cs_ckpt" / "gptj_v512_cs-2.9.yaml", "--release", "2.9")
    assert done.stdout == f"Params saved to {tmp_path / 'params.yaml'}\n"
    content = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert content["trainer"]["init"]["loop"] == {"max_steps": 40}
    (tmp_path / "job.yaml").write_text("training: {batch_size: 0}")
    with pytest.raises(InvalidInputError, match="job file"):
        run(*words, "--config", RELEASE / "config_to_cs-1.8.yaml", "--release", "1.8", "--overwrite")


def test_a_params_file_for_a_cluster_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MGMT_ADDRESS", "a:1"), ("MGMT_NAMESPACE", "n"), ("MOUNT_DIRS", str(tmp_path))):
        monkeypatch.setenv(f"REGRAFT_CEREBRAS_{name}", value)
    job = yaml.safe_load(job_file(tmp_path).read_text()) | {"target": {"kind": "cerebras", "priority": "p1"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    words = ("params", "--job", tmp_path / "job.yaml", "--data-dir", tmp_path / "data", "--model-dir", "/runs/1")
    config = ("--config", ASSETS / "cs_ckpt" / "gptj_v512_cs-2.9.yaml")
    run(*words, *config, "--release", "2.10", "-o", tmp_path / "new.yaml")
    init = yaml.safe_load((tmp_path / "new.yaml").read_text())["trainer"]["init"]
    assert (init["model_dir"], init["backend"]["cluster_config"]["mgmt_address"]) == ("/runs/1", "a:1")
    done = run(*words, *config, "--release", "1.9", "-o", tmp_path / "old.yaml")
    assert "--job_priority p1" in done.stderr
    assert yaml.safe_load((tmp_path / "old.yaml").read_text())["runconfig"]["mgmt_namespace"] == "n"


def test_two_encodings_of_one_model_do_not_differ_and_a_planted_error_does(tmp_path: Path, base: Path) -> None:
    one = convert(base, "hf", "cs-2.9", tmp_path / "a")
    other = convert(base, "hf", "cs-1.8", tmp_path / "b")
    run("diff", one, other)
    content = torch.load(other, weights_only=True)
    content["model"]["ln_f.bias"][3] += 1e-6
    torch.save(content, other)
    assert "ln_f.bias: values differ by up to 1e-06" in run("diff", one, other, ends=1).stdout
