"""The convert stage: what it publishes, what it refuses, what it never does twice."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from convert_samples import (
    Recorder,
    assert_same,
    edit_config,
    edit_weights,
    published,
    run,
    sample,
    tensors_of,
    tie,
    to_bin,
)
from safetensors.torch import load_file

from regraft.errors import InterruptedStageError, InvalidDataError
from regraft.storage import is_published, local_path
from regraft_worker.conversion import hf
from regraft_worker.conversion.lazy import of_tensor


@pytest.fixture(params=["gptj", "gptneox"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sample(tmp_path / "base", request.param)


def test_the_result_is_a_published_folder_with_the_same_tensors(base: Path, tmp_path: Path) -> None:
    progress = Recorder()
    result = run(base, tmp_path / "out", progress)
    folder = local_path(result.uri)
    assert is_published(folder)
    assert folder == tmp_path / "out" / result.address
    assert_same(tensors_of(folder), load_file(base / "model.safetensors"))
    assert (result.tensors, result.vocab_size, result.max_position_embeddings) == (len(tensors_of(base)), 300, 16)
    assert result.parameters == sum(t.numel() for t in tensors_of(base).values())
    total = 5 * 4 * result.parameters
    done = [step for step, _ in progress.steps]
    assert done == sorted(done)
    assert progress.steps[-1] == (total, total)
    assert {found for _, found in progress.steps} == {total}
    assert list((tmp_path / "out").iterdir()) == [folder]
    assert progress.artifacts == [("base_checkpoint", result.uri, {"address": result.address, "cached": False})]


def test_the_same_base_is_found_again_and_not_written(base: Path, tmp_path: Path) -> None:
    first = run(base, tmp_path / "out")
    stamp = (local_path(first.uri) / "model.safetensors").stat().st_mtime_ns
    progress = Recorder()
    second = run(base, tmp_path / "out", progress)
    assert second == first.model_copy(update={"cached": True})
    assert (local_path(first.uri) / "model.safetensors").stat().st_mtime_ns == stamp
    assert progress.steps[-2][0] == 4 * second.parameters  # read for its address, and no more
    assert progress.steps[-1][0] == progress.steps[-1][1]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json", "tokenizer.json"])
def test_every_byte_that_matters_changes_the_address(tmp_path: Path, name: str) -> None:
    base = sample(tmp_path / "base")
    first = run(base, tmp_path / "out").address
    if name == "model.safetensors":
        edit_weights(base, **{"lm_head.bias": torch.full((300,), 0.25)})
    else:
        (base / name).write_text(json.dumps(json.loads((base / "config.json").read_text()), indent=7))
    assert run(base, tmp_path / "out").address != first


def test_a_file_that_does_not_matter_changes_nothing(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    first = run(base, tmp_path / "out").address
    (base / "README.md").write_text("other words")
    assert run(base, tmp_path / "elsewhere").address == first


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    folder = local_path(run(base, tmp_path / "out").uri)
    (folder / "config.json").write_text("{}")
    assert not run(base, tmp_path / "out").cached
    assert is_published(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_stays_and_the_config_tells_the_truth(tmp_path: Path, dtype: torch.dtype) -> None:
    base = sample(tmp_path / "base")
    edit_weights(base, **{name: tensor.to(dtype) for name, tensor in tensors_of(base).items()})
    edit_config(base, torch_dtype="float64", auto_map={"AutoModel": "x.Y"})
    folder = local_path(run(base, tmp_path / "out").uri)
    assert {tensor.dtype for tensor in tensors_of(folder).values()} == {dtype}
    config = hf.load_config(folder)
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert not {"torch_dtype", "auto_map"} & config.keys()
    assert config["architectures"] == ["GPTJForCausalLM"]


def test_mixed_dtypes_are_named_by_the_one_that_holds_them_all() -> None:
    config: dict[str, object] = {"model_type": "gptj"}
    assert hf.written_config(config, {torch.float16, torch.bfloat16})["dtype"] == "float32"
    assert hf.written_config(config, {torch.float16, torch.float32})["dtype"] == "float32"


def test_old_bin_files_lose_their_buffers_and_nothing_else(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    expected = tensors_of(base)
    mask = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
    to_bin(base, **{"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e9)})
    assert_same(tensors_of(local_path(run(base, tmp_path / "out").uri)), expected)


def test_bin_files_from_before_zip_archives_are_read(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    expected = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(expected, base / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(tensors_of(base), expected)


def test_sharded_bin_files_are_one_checkpoint(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    expected = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    weight_map = {name: f"pytorch_model-0000{n % 2 + 1}-of-00002.bin" for n, name in enumerate(expected)}
    for file in set(weight_map.values()):
        torch.save({n: t for n, t in expected.items() if weight_map[n] == file}, base / file)
    (base / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(tensors_of(local_path(run(base, tmp_path / "out").uri)), expected)


@pytest.mark.parametrize("looks", [0, 5, 30, 60, 90, 120])
def test_a_stop_publishes_nothing_and_the_next_run_finishes(tmp_path: Path, looks: int) -> None:
    base = sample(tmp_path / "base")
    with pytest.raises(InterruptedStageError):
        run(base, tmp_path / "out", Recorder(looks=looks))
    assert published(tmp_path / "out") == []
    assert_same(tensors_of(local_path(run(base, tmp_path / "out").uri)), tensors_of(base))
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_stop_is_honoured_within_one_tensor(tmp_path: Path) -> None:
    """Of 64 MB: the second block is not read."""
    base = sample(tmp_path / "base", vocab_size=1_000_000)
    progress = Recorder(looks=2)
    with pytest.raises(InterruptedStageError):
        run(base, tmp_path / "out", progress)
    assert max(step for step, _ in progress.steps) < 64_000_000


def test_finished_shards_are_not_written_again(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    with pytest.raises(InterruptedStageError):
        run(base, tmp_path / "out", Recorder(looks=45), shard_bytes=20_000)
    (work,) = (tmp_path / "out").glob(".work-*")
    before = {path.name: path.stat().st_mtime_ns for path in (work / "model").glob("model-*.safetensors")}
    assert before
    folder = local_path(run(base, tmp_path / "out", shard_bytes=20_000).uri)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("model-*.safetensors")}
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before


def test_what_was_written_whole_is_only_proven_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = sample(tmp_path / "base")
    with pytest.raises(InterruptedStageError):
        run(base, tmp_path / "out", Recorder(looks=70))
    (work,) = (tmp_path / "out").glob(".work-*")
    assert (work / "written.json").is_file()
    monkeypatch.setattr(hf, "write_checkpoint", lambda *args, **options: pytest.fail("it is there"))
    assert_same(tensors_of(local_path(run(base, tmp_path / "out").uri)), tensors_of(base))


def test_a_work_folder_that_somebody_has_is_waited_for(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    with pytest.raises(InterruptedStageError):
        run(base, tmp_path / "out", Recorder(looks=45))
    (work,) = (tmp_path / "out").glob(".work-*")
    with (work / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        progress = Recorder(looks=27)  # as many as it takes to read the base, and two of waiting
        with pytest.raises(InterruptedStageError):
            run(base, tmp_path / "out", progress)
        assert progress.steps[-1][0] == progress.steps[-1][1] / 5
    assert not run(base, tmp_path / "out").cached


def test_what_was_written_is_read_back_before_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = sample(tmp_path / "base")
    write = hf.write_checkpoint

    def flip_a_bit(folder: Path, *args: object, **options: object) -> None:
        write(folder, *args, **options)  # type: ignore[arg-type]
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(hf, "write_checkpoint", flip_a_bit)
    with pytest.raises(InvalidDataError) as caught:
        run(base, tmp_path / "out")
    assert caught.value.reason == "conversion_not_exact"
    assert list((tmp_path / "out").iterdir()) == []  # what is wrong is not kept for the next run


def test_a_base_that_changes_under_the_reader_is_refused(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")

    class Meddler(Recorder):
        def step(self, step, metrics, *, total=None, tokens=None) -> None:  # type: ignore[no-untyped-def]
            if step == total:
                edit_config(base, n_positions=17)

    with pytest.raises(InvalidDataError) as caught:
        run(base, tmp_path / "out", Meddler())
    assert caught.value.reason == "checkpoint_changed"


def test_large_checkpoints_are_sharded_with_an_index(base: Path, tmp_path: Path) -> None:
    expected = tensors_of(base)
    config = hf.load_config(base)
    lazies = [of_tensor(name, tensor) for name, tensor in expected.items()]
    hf.write_checkpoint(tmp_path / "out", lazies, config=config, max_shard_bytes=10_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in expected.values())
    assert_same(tensors_of(tmp_path / "out"), expected)


def test_views_and_shared_memory_are_written_as_what_they_show(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    expected = {name: tensor.clone() for name, tensor in tensors_of(base).items()}
    flat = torch.cat([tensor.reshape(-1) for tensor in expected.values()])
    parts = flat.split([tensor.numel() for tensor in expected.values()])
    views = [of_tensor(name, part.view(expected[name].shape)) for name, part in zip(expected, parts, strict=True)]
    hf.write_checkpoint(tmp_path / "out", views, config=hf.load_config(base))
    assert_same(tensors_of(tmp_path / "out"), expected)


def test_written_files_can_be_read_by_other_users(tmp_path: Path) -> None:
    folder = sample(tmp_path / "base")
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


@pytest.mark.parametrize("stored", [True, False])
def test_a_tied_head_is_written_once(tmp_path: Path, stored: bool) -> None:
    base = sample(tmp_path / "base")
    tie(base, head=load_file(base / "model.safetensors")["transformer.wte.weight"].clone() if stored else None)
    result = run(base, tmp_path / "out")
    assert "lm_head.weight" not in load_file(local_path(result.uri) / "model.safetensors")
    assert result.tensors == 24


def sharded(folder: Path) -> Path:
    with hf.open_folder(folder) as side:
        tensors = [of_tensor(name, lazy.whole().clone()) for name, lazy in side.tensors.items()]
    config = hf.load_config(folder)
    (folder / "model.safetensors").unlink()
    hf.write_checkpoint(folder, tensors, config=config, max_shard_bytes=20_000)
    return folder / "model.safetensors.index.json"


def binary(folder: Path) -> Path:
    to_bin(folder)
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("weights", [lambda folder: folder / "model.safetensors", binary, sharded])
def test_weights_may_be_named_themselves_with_their_config_beside_them(
    tmp_path: Path, weights: Callable[[Path], Path]
) -> None:
    base = sample(tmp_path / "base")
    expected = tensors_of(base)
    path = weights(base)
    (base / "other.mdl").write_bytes(b"of no interest")
    by_file, by_folder = (run(found, tmp_path / "out") for found in (path, base))
    assert_same(tensors_of(local_path(by_file.uri)), expected)
    assert by_folder.address == by_file.address
    (base / "config.json").unlink()
    with pytest.raises(InvalidDataError) as caught:
        run(path, tmp_path / "out")
    assert (caught.value.reason, caught.value.field) == ("no_config", "base_checkpoint.uri")


def test_a_snapshot_of_links_as_the_hub_leaves_it_is_read(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1234", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(base.iterdir()):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    folder = local_path(run(snapshot, tmp_path / "out").uri)
    assert_same(tensors_of(folder), tensors_of(base))
    assert not [path for path in folder.iterdir() if path.is_symlink()]
