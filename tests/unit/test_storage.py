"""Artifacts exist whole or not at all."""

from pathlib import Path

import pytest

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.storage import is_published, local_path, publish, read_manifest, to_uri, verify


def make(final: Path, *, text: str = "hello") -> Path:
    with publish(final, kind="dataset") as draft:
        (draft.folder / "sub").mkdir()
        (draft.folder / "sub" / "a.txt").write_text(text)
        draft.summary = {"documents": 3}
        draft.parents = {"source": "abc"}
    return final


def test_a_published_folder_verifies_and_tells_its_story(tmp_path: Path) -> None:
    manifest = read_manifest(make(tmp_path / "x"))
    assert manifest is not None
    verify(tmp_path / "x", manifest)
    assert (manifest.kind, manifest.address, manifest.summary) == ("dataset", "x", {"documents": 3})
    assert [entry.path for entry in manifest.files] == ["sub/a.txt"]


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), publish(tmp_path / "x", kind="dataset") as draft:
        (draft.folder / "a.txt").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_is_published_is_kept_when_made_again(tmp_path: Path) -> None:
    make(tmp_path / "x", text="first")
    make(tmp_path / "x", text="second")
    assert (tmp_path / "x/sub/a.txt").read_text() == "first"


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "noise", "no manifest"])
def test_damage_is_seen_and_mended_by_making_it_again(tmp_path: Path, damage: str) -> None:
    final = make(tmp_path / "x")
    file = final / "sub/a.txt"
    match damage:
        case "truncate":
            file.write_text("hell")
        case "flip":
            file.write_text("hellp")
        case "remove":
            file.unlink()
        case "manifest":
            (final / "manifest.json").write_text("{")
        case "noise":
            (final / "manifest.json").write_bytes(b"\xff\xfe\x00")
        case _:
            (final / "manifest.json").unlink()
    assert not is_published(final)
    assert is_published(make(final))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    manifest = read_manifest(make(tmp_path / "x"))
    (tmp_path / "x/sub/a.txt").write_text("hellp")
    assert manifest is not None
    with pytest.raises(InvalidDataError, match=r"other bytes.*a\.txt"):
        verify(tmp_path / "x", manifest)


def test_uris_and_paths_are_the_same_place(tmp_path: Path) -> None:
    path = tmp_path / "a b%20c"
    assert local_path(to_uri(path)) == path
    assert local_path(str(path)) == path


@pytest.mark.parametrize("uri", ["s3://bucket/key", "file://host/path", "~nobody-of-this-name/corpus"])
def test_places_that_are_not_on_this_machine_are_refused_by_field(uri: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        local_path(uri, field="dataset.uri")
    assert caught.value.field == "dataset.uri"
    assert caught.value.remedy
