"""The command line that converts checkpoints: the documented words, every format, what is refused, what is said."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from convert_commands import ASSETS, convert, cs_state, hf_state, run
from convert_samples import assert_same, edit_config, edit_weights, sample, tie, to_bin
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from regraft.errors import ConflictError, InvalidDataError, InvalidInputError
from regraft.storage import draft_folder
from regraft_worker import cli_convert, cli_inspect
from regraft_worker.conversion import transfer_making, transfer_writing
from regraft_worker.conversion.bits import digest, same_bits
from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.formats import FORMATS
from regraft_worker.conversion.opened import open_checkpoint
from regraft_worker.conversion.writers.finished import Finished

RELEASE = ASSETS / "release-1.8.0"


@pytest.fixture(params=["gptj", "gptneox"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sample(tmp_path / "base", request.param)


def test_the_documented_command_line_gives_what_release_1_8_gave(tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "hf_ckpt" / "gptj_v512", tmp_path / "hf")
    to_bin(tmp_path / "hf")
    out = tmp_path / "out"
    words = ["convert", tmp_path / "hf" / "pytorch_model.bin", "--config", tmp_path / "hf" / "config.json"]
    done = run(*words, "--model", "gptj", "--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--output-dir", out)
    model, config = out / "pytorch_model_to_cs-1.8.mdl", out / "config_to_cs-1.8.yaml"
    assert done.stdout.splitlines() == [f"Checkpoint saved to {model}", f"Config saved to {config}"]
    said = "Proven: 25 tensors came back bit for bit; source and result compute the same logits, at most 0 apart."
    assert done.stderr.splitlines() == [f"{said} transformers was not asked: it was left out on request."]
    proof = out / "pytorch_model_to_cs-1.8.verification.json"
    assert sorted(out.iterdir()) == [config, model, proof]
    assert_same(cs_state(model), cs_state(RELEASE / model.name))
    assert config.read_bytes() == (RELEASE / config.name).read_bytes()


def test_back_from_release_1_8_is_one_file_with_the_old_buffers(tmp_path: Path) -> None:
    words = ["convert", RELEASE / "pytorch_model_to_cs-1.8.mdl", "--config", RELEASE / "config_to_cs-1.8.yaml"]
    done = run(*words, "--model", "gptj", "--src-fmt", "cs-1.8", "--tgt-fmt", "hf", "--output-dir", tmp_path)
    weights, config = tmp_path / "pytorch_model_to_cs-1.8_to_hf.bin", tmp_path / "config_to_cs-1.8_to_hf.json"
    assert done.stdout.splitlines() == [f"Checkpoint saved to {weights}", f"Config saved to {config}"]
    assert config.read_bytes() == (RELEASE / config.name).read_bytes()
    found = torch.load(weights, weights_only=True)
    buffers = {name: found.pop(name) for name in list(found) if name.endswith((".attn.bias", ".masked_bias"))}
    assert_same(found, load_file(ASSETS / "hf_ckpt" / "gptj_v512" / "model.safetensors"))
    assert len(buffers) == 4
    assert torch.equal(buffers["transformer.h.1.attn.bias"][0, 0], torch.ones(128, 128, dtype=torch.uint8).tril())
    assert float(buffers["transformer.h.0.attn.masked_bias"]) == -1e9


@pytest.mark.parametrize("release", [name for name in FORMATS if name != "hf"])
def test_there_and_back_by_every_release(tmp_path: Path, base: Path, release: str) -> None:
    there = convert(base, "hf", release, tmp_path / "cs")
    assert there.name == f"pytorch_model_to_{release}.mdl"
    assert there.read_bytes()[:4] == (b"\x89HDF" if release == "cs-2.9" else b"PK\x03\x04")
    if release == "cs-1.7":
        assert all(name.startswith("model.") for name in cs_state(there))
    elif release != "cs-2.9":
        assert not any(name.startswith("model.") for name in cs_state(there))
    back = hf_state(convert(there, "cs-auto", "hf", tmp_path / "hf", "--export-safetensors"))
    expected = load_file(base / "model.safetensors")
    assert [name for name in expected if not same_bits(expected[name], back[name])] == []
    buffers = (".bias", ".masked_bias", ".rotary_emb.inv_freq")
    assert all(name.endswith(buffers) and ".att" in name for name in back.keys() - expected.keys())


def test_from_release_to_release(tmp_path: Path, base: Path) -> None:
    first = convert(base, "hf", "cs-1.8", tmp_path / "a")
    second = convert(first, "cs-1.8", "cs-2.9", tmp_path / "b")
    assert second.name == "pytorch_model_to_cs-1.8_to_cs-2.9.mdl"
    third = convert(second, "cs-auto", "cs-1.8", tmp_path / "c")
    assert_same(cs_state(third), cs_state(first))
    assert run("diff", first, second).stdout.startswith("no difference")


def test_a_folder_of_release_2_has_shards_an_index_and_the_config(tmp_path: Path, base: Path) -> None:
    there = convert(base, "hf", "cs-2.2", tmp_path / "cs")
    one = convert(there, "cs-2.2", "hf", tmp_path / "one")
    weights = "pytorch_model-00001-of-00001.bin"
    beside = ["pytorch_model.bin.index.json", "verification.json"]
    assert sorted(path.name for path in one.iterdir()) == ["config.json", weights, *beside]
    index = json.loads((one / "pytorch_model.bin.index.json").read_text())
    found = hf_state(one)
    assert index["weight_map"] == dict.fromkeys(found, weights)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    many = convert(there, "cs-2.2", "hf", tmp_path / "many", "--hf-shard-size", "8KB", "--export-safetensors")
    names = sorted(path.name for path in many.iterdir())
    assert names[:1] + names[-2:] == ["config.json", "model.safetensors.index.json", "verification.json"]
    assert len(names) > 5
    assert_same(hf_state(many), found)
    again = convert(many, "hf", "cs-2.2", tmp_path / "again")
    assert_same(cs_state(again), cs_state(there))
    by_index = convert(one / "pytorch_model.bin.index.json", "hf", "cs-2.2", tmp_path / "by_index")
    assert by_index.name == "pytorch_model_to_cs-2.2.mdl"
    assert_same(cs_state(by_index), cs_state(there))


@pytest.mark.parametrize("release", ["cs-1.8", "cs-2.9"])
def test_the_proof_is_kept_with_the_digests_of_what_was_written(tmp_path: Path, base: Path, release: str) -> None:
    there = convert(base, "hf", release, tmp_path / "there")
    back = convert(there, release, "hf", tmp_path / "back")
    inside = back / "verification.json" if back.is_dir() else back.with_suffix(".verification.json")
    for result, path in ((there, there.with_suffix(".verification.json")), (back, inside)):
        facts = json.loads(path.read_text())
        with open_checkpoint(result) as opened:
            assert facts["tensors"]["sha256"] == {name: digest(lazy) for name, lazy in opened.tensors.items()}
        logits = facts["logits"]
        assert facts["verified"] is True
        assert 0 <= logits["max_abs_difference"] <= logits["tolerance"] * logits["largest_logit"]
        assert facts["tensors"]["count"] >= 20
        assert "not_compared" in facts["transformers"]


def test_a_headless_model_gets_a_head_and_loses_it_again(tmp_path: Path, base: Path) -> None:
    full = load_file(base / "model.safetensors")
    bare = {
        name.partition(".")[2]: tensor for name, tensor in full.items() if not name.startswith(("lm_head", "embed_out"))
    }
    save_file(bare, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    name = {"gptj": "gptj-headless", "gpt_neox": "gpt-neox-headless"}[config["model_type"]]
    there = convert(base, "hf", "cs-1.8", tmp_path / "cs", "--model", name)
    state = cs_state(there)
    assert state["lm_head.weight"].shape == state["embedding_layer.word_embeddings.weight"].shape
    assert 0.015 < float(state["lm_head.weight"].std()) < 0.025
    assert ("lm_head.bias" in state) == (name == "gptj-headless")
    back = hf_state(convert(there, "cs-2.0", "hf", tmp_path / "hf", "--model", name))
    assert_same({key: back[key] for key in bare}, bare)
    assert not any("head" in key or "embed_out" in key for key in back)
    higher = convert(there, "cs-1.8", "cs-1.9", tmp_path / "higher", "--model", name)
    assert_same(cs_state(higher), state)


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    tie(base, head=None)
    there = convert(base, "hf", "cs-1.8", tmp_path / "cs")
    state = cs_state(there)
    assert state["lm_head.weight"].data_ptr() == state["embedding_layer.word_embeddings.weight"].data_ptr()
    newer = convert(there, "cs-1.8", "cs-2.9", tmp_path / "newer")
    back = hf_state(convert(newer, "cs-2.9", "hf", tmp_path / "hf"))
    assert_same(back, load_file(base / "model.safetensors"))
    assert "parameters   " + f"{sum(t.numel() for t in back.values()):,}" in run("info", there).stdout


def test_a_training_run_is_carried_between_releases_and_not_to_hugging_face(tmp_path: Path) -> None:
    there = convert(sample(tmp_path / "base"), "hf", "cs-1.8", tmp_path / "cs")
    state = cs_state(there)
    moments = {"exp_avg": torch.randn(3, 2), "exp_avg_sq": torch.rand(3, 2), "beta1_power": torch.tensor(0.9)}
    group = {"lr": torch.tensor(1e-3), "correct_bias": torch.tensor(1, dtype=torch.int32), "params": [0]}
    content: dict[str, Any] = {
        "model": {f"model.{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {0: moments}, "param_groups": [group]},
        "lr_scheduler": {"last_epoch": 7, "_milestones": [5]},
        "global_step": 10,
        "state_version": "0.2",
    }
    torch.save(content, tmp_path / "checkpoint_10.mdl")
    words = ("--config", there.with_name("config_to_cs-1.8.yaml"))
    newer = convert(tmp_path / "checkpoint_10.mdl", "cs-auto", "cs-2.2", tmp_path / "newer", *words)
    found = torch.load(newer, weights_only=True)
    assert_same(found["model"], content["model"])
    assert found.keys() == content.keys() - {"state_version"}
    assert (found["global_step"], found["lr_scheduler"]) == (10, {"last_epoch": 10, "_milestones": [5]})
    assert_same(found["optimizer"]["state"][0], moments)
    assert found["optimizer"]["param_groups"][0]["correct_bias"] is True
    shown = run("info", newer).stdout
    assert "global step  10\n" in shown
    assert "optimizer    yes\n" in shown
    hf = run("convert", newer, *words, "--src-fmt", "cs-2.2", "--tgt-fmt", "hf", "--output-dir", tmp_path / "hf")
    assert "left out: the optimizer's state and the step" in hf.stderr


def test_the_newest_schedule_has_its_old_name_before_2_3(tmp_path: Path) -> None:
    there = convert(sample(tmp_path / "base"), "hf", "cs-1.8", tmp_path / "cs")
    words = ("--config", there.with_name("config_to_cs-1.8.yaml"))
    content = {"model": cs_state(there), "schedulers": [{"last_epoch": 3}], "global_step": 3}
    torch.save(content | {"__metadata__": [{"version": "2.9.0"}]}, tmp_path / "checkpoint_3.mdl")
    older = torch.load(convert(tmp_path / "checkpoint_3.mdl", "cs-auto", "cs-2.2", tmp_path / "a", *words))
    assert older.keys() == {"model", "lr_scheduler", "global_step"}
    assert older["lr_scheduler"] == {"last_epoch": 3}
    torch.save(content | {"schedulers": [{"last_epoch": 3}, {"last_epoch": 3}]}, tmp_path / "checkpoint_3.mdl")
    with pytest.raises(InvalidDataError, match="has several"):
        convert(tmp_path / "checkpoint_3.mdl", "cs-2.9", "cs-2.2", tmp_path / "b", *words)


def test_hdf5_on_request_where_the_release_reads_what_we_write(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    assert convert(base, "hf", "cs-2.6", tmp_path / "a", "--export-h5-checkpoint").read_bytes()[:4] == b"\x89HDF"
    words = ("convert", base, "--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--output-dir", tmp_path / "b")
    done = run(*words, "--export-h5-checkpoint")
    assert (
        "written as a torch file in spite of --export-h5-checkpoint: cs-1.8 reads HDF5 up to format 0.2" in done.stderr
    )
    assert len(cs_state(tmp_path / "b" / "pytorch_model_to_cs-1.8.mdl")) == 27


def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    base, out = sample(tmp_path / "base"), tmp_path / "out"
    for src, source in (("hf", base), ("cs-2.2", out / "pytorch_model_to_cs-2.2.mdl")):
        tgt = "hf" if src != "hf" else "cs-2.2"
        first = convert(source, src, tgt, out)
        stamp = first.stat().st_ino
        with pytest.raises(ConflictError, match="--overwrite"):
            convert(source, src, tgt, out)
        assert first.stat().st_ino == stamp
        assert convert(source, src, tgt, out, "--overwrite").stat().st_ino != stamp
    assert not list(out.glob(".part-*"))


def test_a_failure_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = sample(tmp_path / "base")
    edit_weights(base, **{"lm_head.bias": torch.full((300,), float("nan"))})
    words = ["convert", str(base), "--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--output-dir", str(tmp_path / "out")]
    app = typer.Typer()
    app.command("convert")(cli_convert.convert)
    app.command("other")(cli_inspect.info)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert done.stdout == "Conversion failed.\n"
    assert isinstance(done.exception, InvalidDataError)
    assert (done.exception.reason, done.exception.value) == ("weights_not_finite", "lm_head.bias")
    assert list((tmp_path / "out").iterdir()) == []
    assert "Traceback" in CliRunner().invoke(app, [*words, "--debug"]).stderr


@pytest.mark.parametrize("release", ["cs-1.8", "cs-2.9"])
@pytest.mark.parametrize("family", ["gptj", "gptneox"])
def test_a_file_with_one_other_bit_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, release: str
) -> None:
    """In any tensor: one that the decoder multiplies with, a bias, a norm, rows of the embedding that no id names."""
    base, real = sample(tmp_path / "base", family), transfer_writing.write_once
    edit_weights(base, **{n: torch.randn_like(t) for n, t in load_file(base / "model.safetensors").items()})
    names: list[str] = []

    def flipped(path: Path, write: Callable[[Path], dict[str, str]], *, finished: Finished) -> None:
        real(path, write, finished=finished)
        with open_container(path) as container:
            tensors = {name: lazy.whole().clone() for name, lazy in container.tensors.items()}
        names[:] = sorted(name for name in tensors if "transformer_decoder.norm" not in name)  # stored once, as ln_f
        content, wanted = path.read_bytes(), tensors[names[number]].numpy().tobytes()
        assert content.count(wanted) == 1
        other = wanted[:-4] + bytes([wanted[-4] ^ 1]) + wanted[-3:]  # the lowest bit of the last value
        # With the checksum of what is there now: it is the proof that has to find it.
        crcs = [zlib.crc32(values).to_bytes(4, "little") for values in (wanted, other)]
        path.write_bytes(content.replace(wanted, other).replace(*crcs))

    monkeypatch.setattr(transfer_making, "write_once", flipped)
    number = 0
    while number == 0 or number < len(names):
        with pytest.raises(InvalidDataError, match="read back with other values") as caught:
            convert(base, "hf", release, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []
        assert caught.value.reason == "conversion_not_exact"
        number += 1


def test_a_source_with_one_other_byte_is_refused(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    to_bin(base)
    path = base / "pytorch_model.bin"
    content, values = bytearray(path.read_bytes()), hf_state(path)["transformer.h.1.mlp.fc_in.weight"].numpy().tobytes()
    assert content.count(values) == 1
    content[content.index(values) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidDataError, match="the checksum is another one") as caught:
        convert(base, "hf", "cs-1.8", tmp_path / "out")
    assert caught.value.reason == "unreadable_checkpoint"
    assert list((tmp_path / "out").iterdir()) == []


def test_the_leftovers_of_a_killed_conversion_of_a_config_are_removed(tmp_path: Path) -> None:
    base, out = sample(tmp_path / "base"), tmp_path / "out"
    dead = out / ".part-config_to_cs-1.8.yaml-1"
    out.mkdir()
    with draft_folder(out / ".part-config_to_cs-1.8.yaml") as alive:
        dead.mkdir()
        (dead / "half").write_bytes(b"x")
        run("convert-config", base / "config.json", "--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--output-dir", out)
        assert (dead.exists(), alive.exists()) == (False, True)


def test_tensors_nobody_knows_stop_a_conversion_unless_dropped(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    edit_weights(base, **{"value_head.weight": torch.zeros(3), "transformer.h.0.attn.masked_bias": torch.tensor(-1e9)})
    with pytest.raises(InvalidDataError, match=r"value_head\.weight"):
        convert(base, "hf", "cs-1.8", tmp_path / "a")
    words = ("convert", base, "--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--output-dir", tmp_path / "b")
    done = run(*words, "--drop-unmatched-keys")
    assert "none of these names: value_head.weight\n" in done.stderr
    assert len(cs_state(tmp_path / "b" / "pytorch_model_to_cs-1.8.mdl")) == 27


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--src-fmt", "hf", "--tgt-fmt", "cs-3.0"], "--tgt-fmt"),
        (["--src-fmt", "tf", "--tgt-fmt", "cs-1.8"], "--src-fmt"),
        (["--src-fmt", "hf", "--tgt-fmt", "hf"], "--tgt-fmt"),
        (["--src-fmt", "cs-auto", "--tgt-fmt", "hf"], "--tgt-fmt"),
        (["--src-fmt", "cs-1.8", "--tgt-fmt", "hf", "--config", "config.json"], "--src-fmt"),
        (["--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--model", "gpt-neox"], "--model"),
        (["--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--model", "gpt2"], "--model"),
        (["--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--hf-shard-size", "ten"], "--hf-shard-size"),
        (["--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--config", "none.json"], "--config"),
    ],
)
def test_what_cannot_be_done_names_the_option(tmp_path: Path, options: list[str], field: str) -> None:
    base = sample(tmp_path / "base")
    (base / "only.yaml").write_text("model: {}")
    with pytest.raises(InvalidInputError) as caught:
        run("convert", base / "model.safetensors", *options)
    assert caught.value.field == field
    assert not list(base.glob("*_to_*"))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ([], "--data-dir"),
        (["--data-dir", "data", "--job", "none.yaml"], "job file"),
        (["--data-dir", "data"], "--output-dir"),
    ],
)
def test_a_params_file_that_cannot_be_written_is_refused_before_the_conversion(
    tmp_path: Path, options: list[str], field: str
) -> None:
    base = sample(tmp_path / "base", max_position_embeddings=512)
    out, params = tmp_path / "out", tmp_path / "params.yaml"
    params.write_text("there already")
    with pytest.raises((InvalidInputError, ConflictError)) as caught:
        convert(base, "hf", "cs-2.9", out, "--params-out", params, *options)
    assert caught.value.field == field
    assert not out.exists()
    convert(base, "hf", "cs-2.9", out, "--params-out", params, "--data-dir", "data", "--overwrite")
    assert "train_dataloader" in params.read_text() or "trainer" in params.read_text()


def test_a_config_alone(tmp_path: Path, base: Path) -> None:
    edit_config(base, made_up=3)
    words = ("convert-config", base / "config.json", "--src-fmt", "hf", "--tgt-fmt", "cs-current")
    done = run(*words, "--output-dir", tmp_path / "out")
    path = tmp_path / "out" / "config_to_cs-2.9.yaml"
    assert done.stdout == f"Config saved to {path}\n"
    assert done.stderr.splitlines() == [
        "note: cs-current is cs-2.9",
        "note: config keys dropped because nothing is known of them: made_up",
    ]
    back = run("convert-config", path, "--src-fmt", "cs-auto", "--tgt-fmt", "hf")
    assert back.stdout == f"Config saved to {path.with_name('config_to_cs-2.9_to_hf.json')}\n"
    with pytest.raises(ConflictError):
        run(*words, "--output-dir", tmp_path / "out")
