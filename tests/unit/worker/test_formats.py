"""The table of formats: names, aliases, what a file says of its release, and the names of outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.errors import InvalidDataError, InvalidInputError
from regraft_worker.conversion.formats import FORMATS, detect_format, format_named, output_paths, pairs, stem_of


def test_every_release_is_there_and_reads_what_is_written_for_it() -> None:
    releases = [f"cs-1.{n}" for n in (7, 8, 9)] + [f"cs-2.{n}" for n in range(10)]
    assert list(FORMATS) == ["hf", *releases]
    for row in FORMATS.values():
        assert row.writes in row.reads
        assert row.writes_on_request in (*row.reads, "")
    assert {name for name, row in FORMATS.items() if row.writes == "hdf5-0.5"} == {"cs-2.9"}
    assert [name for name, row in FORMATS.items() if row.writes_on_request == "hdf5-0.5"] == releases[-4:]
    assert [row.name for row in FORMATS.values() if row.prefix] == ["cs-1.7"]
    assert "hdf5-0.5" not in FORMATS["cs-2.5"].reads


@pytest.mark.parametrize(("alias", "said"), [("cs-current", "is cs-2.9"), ("cs-2.10", "taken as cs-2.9")])
def test_aliases_are_explained(alias: str, said: str) -> None:
    found, note = format_named(alias, field="--tgt-fmt")
    assert found is FORMATS["cs-2.9"]
    assert said in note
    assert format_named("cs-2.1", field="--tgt-fmt") == (FORMATS["cs-2.1"], "")


@pytest.mark.parametrize("name", ["cs-2.11", "cs-1.6", "HF", "cs-auto", ""])
def test_an_unknown_format_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"cs-1\.7, cs-1\.8.*cs-2\.9, cs-current") as caught:
        format_named(name, field="--tgt-fmt")
    assert (caught.value.field, caught.value.value) == ("--tgt-fmt", name)


@pytest.mark.parametrize(
    ("values", "encoding", "release"),
    [
        ({"__metadata__.0.version": "2.2.1"}, "hdf5-0.4", "cs-2.2"),
        ({"__metadata__.0.version": "2.0.2", "__metadata__.10.version": "2.5.0"}, "hdf5-0.4", "cs-2.5"),
        ({"__metadata__.0.version": "2.10.0"}, "hdf5-0.5", "cs-2.9"),
        ({"__metadata__.0.params.version": "1.8"}, "hdf5-0.5", "cs-2.9"),
        ({"__metadata__.0.version": None}, "hdf5-0.3", "cs-1.9"),
        ({}, "hdf5-0.1", "cs-1.7"),
        ({}, "hdf5-0.2", "cs-1.8"),
        ({}, "hdf5-0.4", "cs-2.0"),
        ({}, "hdf5-0.5", "cs-2.9"),
        ({"global_step": 3, "state_version": "0.2"}, "torch-zip", "cs-1.8"),
        ({}, "torch-legacy", "cs-1.8"),
    ],
)
def test_a_file_says_of_which_release_it_is(values: dict[str, object], encoding: str, release: str) -> None:
    assert detect_format(values, encoding).name == release


def test_a_converted_file_that_says_nothing_is_told_by_its_name() -> None:
    assert detect_format({}, "torch-zip", stem="pytorch_model_to_cs-2.2").name == "cs-2.2"
    assert detect_format({}, "torch-zip", stem="pytorch_model_to_cs-2.0_to_cs-1.9").name == "cs-1.9"
    assert detect_format({}, "torch-zip", stem="pytorch_model_to_hf").name == "cs-1.8"
    said = {"__metadata__.0.version": "2.5.0"}
    assert detect_format(said, "torch-zip", stem="pytorch_model_to_cs-2.2").name == "cs-2.5"


def test_safetensors_are_no_cerebras_file() -> None:
    with pytest.raises(InvalidDataError, match="--src-fmt hf"):
        detect_format({}, "safetensors")


@pytest.mark.parametrize(
    ("source", "target", "request_", "checkpoint", "config"),
    [
        ("hf", "cs-1.8", False, "pytorch_model_to_cs-1.8.mdl", "config_to_cs-1.8.yaml"),
        ("hf", "cs-2.9", False, "pytorch_model_to_cs-2.9.mdl", "config_to_cs-2.9.yaml"),
        ("cs-2.0", "cs-1.9", True, "pytorch_model_to_cs-1.9.mdl", "config_to_cs-1.9.yaml"),
        ("cs-1.8", "hf", False, "pytorch_model_to_hf.bin", "config_to_hf.json"),
        ("cs-1.9", "hf", True, "pytorch_model_to_hf.safetensors", "config_to_hf.json"),
        ("cs-2.2", "hf", False, "pytorch_model_to_hf", "pytorch_model_to_hf/config.json"),
    ],
)
def test_outputs_have_the_names_that_the_original_gives(
    source: str, target: str, request_: bool, checkpoint: str, config: str
) -> None:
    suffix, config_suffix = (".bin", ".json") if source == "hf" else (".mdl", ".yaml")
    found = output_paths(
        Path("out"),
        Path(f"in/pytorch_model{suffix}"),
        Path(f"in/config{config_suffix}"),
        source=FORMATS[source],
        target=FORMATS[target],
        h5=request_,
    )
    assert (found.checkpoint, found.config) == (Path("out") / checkpoint, Path("out") / config)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("pytorch_model.bin.index.json", "pytorch_model"),
        ("model.safetensors", "model"),
        ("gpt-j-6.7b.bin", "gpt-j-6.7b"),
        ("pytorch_model_to_cs-2.0.mdl", "pytorch_model_to_cs-2.0"),
        ("weights.ckpt", "weights"),
    ],
)
def test_the_stem_keeps_dots_that_are_no_suffix(name: str, stem: str) -> None:
    assert stem_of(Path(name)) == stem


def test_a_folder_has_the_usual_stem(tmp_path: Path) -> None:
    assert stem_of(tmp_path) == "pytorch_model"


def test_the_list_names_every_model_with_both_directions() -> None:
    rows = pairs()
    assert {row[0] for row in rows} == {"gptj", "gpt-neox", "gptj-headless", "gpt-neox-headless"}
    assert len(rows) == 8
