"""Pickles that want more than tensors: refused by name, nothing run, nothing left behind."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from container_files import (
    Call,
    Saved,
    assert_refused,
    nothing_left,
    opened_or_refused,
    pickled,
    rebuilt,
    storage,
    torch_tree,
    torch_zip,
)

from regraft.errors import InvalidDataError
from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.lazy import Lazy

MARK = "code-was-run"


def legacy(path: Path, content: bytes, behind: bytes = b"") -> Path:
    """A legacy file with any pickle in the place of its tree."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + content + pickle.dumps([], 2) + behind)
    return path


@pytest.mark.parametrize("make", [torch_zip, legacy])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Call(os.system, f"touch {MARK}"), "posix.system"),
        (Call(subprocess.Popen, ["touch", MARK]), ".Popen"),
        (Call(builtins.eval, f"open('{MARK}', 'w')"), "builtin__.eval"),
        (Call(builtins.getattr, Call(__import__, "os"), "system"), "builtin__.getattr"),
        (Call(torch.load, MARK), "torch.serialization.load"),
        (Call(torch.storage._load_from_bytes, b"x"), "torch.storage._load_from_bytes"),
        (Call(torch.hub.load, "x", "y"), "torch.hub.load"),
        (Call(torch._utils._rebuild_sparse_tensor, 1), "torch._utils._rebuild_sparse_tensor"),
        (Call(collections.defaultdict, list), "collections.defaultdict"),
    ],
)
def test_names_that_no_checkpoint_needs(tmp_path: Path, monkeypatch, make, call: Call, name: str) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    content = pickled({"model": {"weight": call}})
    error = assert_refused(make(tmp_path / "a.mdl", content), "unsafe_checkpoint", "its pickle asks for")
    assert name in error.message
    assert not (tmp_path / MARK).exists()


def test_the_same_pickles_do_run_code_elsewhere(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The planted error: what is refused above is not harmless."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickled({"model": Call(os.system, f"touch {MARK}")}))
    assert (tmp_path / MARK).exists()


def test_newer_protocols_are_no_way_around(tmp_path: Path) -> None:
    for protocol in (0, 1, 3, 4, 5):
        content = pickled({"a": Call(os.system, f"touch {MARK}")}, protocol)
        assert_refused(torch_zip(tmp_path / "a.mdl", content), "unsafe_checkpoint", "posix.system")


ORDERED = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    ("instructions", "reason", "cause"),
    [
        (b"]}b.", "unsafe", "sets the state of a list"),
        (ORDERED + b"}b.", "unsafe", "sets the state of a name"),
        (ORDERED + b")R(X\x01\x00\x00\x00aK\x01db.", "unsupported", "no dictionary"),
        (ORDERED + b")RX\x01\x00\x00\x00xb.", "unsafe", "sets the state of a dict"),
        (b"ctorch\nFloatStorage\n)R.", "unsafe", "calls torch.FloatStorage"),
        (b"ctorch\nFloatStorage\n)\x81.", "unsafe", "makes an object of"),
        (b"(cos\nsystem\nX\x01\x00\x00\x00xo.", "unsafe", "os.system"),
        (b"(X\x01\x00\x00\x00xios\nsystem\n.", "unsafe", "the instruction INST"),
        (b"\x82\x01.", "unsafe", "the instruction EXT1"),
        (b"Pabc\n.", "unsafe", "the instruction PERSID"),
        (b"\x97.", "unsafe", "the instruction NEXT_BUFFER"),
        (b"K\x01)R.", "unsafe", "calls int"),
        (b"}]K\x01s.", "unsupported", "a list as a key"),
        (b"}K\x01K\x02a.", "unreadable", "is damaged"),
        (b"h\x07.", "unreadable", "is damaged"),
        (b"R.", "unreadable", "is damaged"),
        (b"(.", "unreadable", "is damaged"),
        (b".", "unreadable", "is damaged"),
        (b"}}.", "unreadable", "does not end in one object"),
        (b"}", "unreadable", "is damaged"),
        (b"\xff.", "unreadable", "is damaged"),
        (b"X\xff\xff\xff\xffabc.", "unreadable", "is damaged"),
        (b"\x8b\xff\xff\xff\x7f\x01.", "unreadable", "is damaged"),
        (b"\x8b\x00\x00\x10\x00" + b"\x7f" * 2**20 + b".", "unsafe", "a number of"),
        (b"I" + b"9" * 5000 + b"\n.", "unreadable", "is damaged"),
        (b"\x80\x63}.", "unsupported", ""),
    ],
)
def test_instructions(tmp_path: Path, instructions: bytes, reason: str, cause: str) -> None:
    path = torch_zip(tmp_path / "a.mdl", instructions)
    if not cause or cause == "no dictionary":
        open_container(path).close()  # a newer protocol number and the versions of modules do no harm
    else:
        assert_refused(path, f"{reason}_checkpoint", cause)


@pytest.mark.parametrize(
    ("tree", "reason", "cause"),
    [
        (rebuilt("storage", 0, (2,), (1,), False, {}), "unsafe", "not as torch does"),
        (rebuilt(storage(), -1, (2,), (1,), False, {}), "unsafe", "not as torch does"),
        (rebuilt(storage(), 0, (-2,), (1,), False, {}), "unsafe", "not as torch does"),
        (rebuilt(storage(), 0, (2,), (-1,), False, {}), "unsafe", "not as torch does"),
        (rebuilt(storage(), 0, (2**63,), (1,), False, {}), "unsafe", "not as torch does"),
        (rebuilt(storage(), 0, (True,), (1,), False, {}), "unsafe", "not as torch does"),
        (rebuilt(storage(), 0, (1,) * 100, (1,) * 100, False, {}), "unsafe", "not as torch does"),
        (rebuilt(storage()), "unsafe", "not as torch does"),
        (rebuilt(storage(), 3, (2,), (1,), False, {}), "unreadable", "ends at value 5 of the 4"),
        (rebuilt(storage(), 0, (2, 2), (9, 1), False, {}), "unreadable", "ends at value 11 of the 4"),
        (rebuilt(storage(), 0, (2, 2), (1,), False, {}), "unreadable", "2 sizes and 1 strides"),
        (rebuilt(storage(), 0, (2**40, 2**40), (0, 0), False, {}), "unsupported", "repeats the 4 of its storage"),
        (rebuilt(storage(key="9"), 0, (2,), (1,), False, {}), "unreadable", "its storage '9' is missing"),
        (rebuilt(storage(key="../version"), 0, (2,), (1,), False, {}), "unreadable", "'../version' is missing"),
        (rebuilt(storage(numel=2**50), 0, (2,), (1,), False, {}), "unreadable", "has 16 bytes, not"),
        (rebuilt(storage(numel=-1), 0, (2,), (1,), False, {}), "unsafe", "in a way torch does not"),
        (rebuilt(storage(kind="x"), 0, (2,), (1,), False, {}), "unsafe", "in a way torch does not"),
        ([storage(), storage(kind=torch.IntStorage)], "unreadable", "two types or sizes"),
        (Saved("module", 1, 2, 3), "unsafe", "that is no storage"),
        (Saved("file:///etc/passwd"), "unsafe", "that is no storage"),
        (Call(torch._utils._rebuild_parameter, 1, True, {}), "unsafe", "not as torch does"),
        (Call(torch.Size, "x"), "unsafe", "not as torch does"),
        (Call(torch.device, ["x"]), "unsafe", "not as torch does"),
        (Call(collections.OrderedDict, [[[], 1]]), "unsafe", "not as torch does"),
        (Call(collections.OrderedDict, 7), "unsafe", "not as torch does"),
    ],
)
def test_known_names_with_wild_arguments(tmp_path: Path, tree: object, reason: str, cause: str) -> None:
    path = torch_zip(tmp_path / "a.mdl", pickled({"a": tree}))
    assert_refused(path, f"{reason}_checkpoint", cause)


def test_bombs(tmp_path: Path) -> None:
    bombs = {
        "entries": b"]" + b"2\x86" * 60 + b"\x85.",
        "nested more than": b")" + b"\x85" * 100_000 + b".",
        "letters": b"(X\x00\x00\x10\x00" + b"x" * 2**20 + b"2" * 100 + b"l.",
    }
    for cause, content in bombs.items():
        assert_refused(torch_zip(tmp_path / "a.mdl", content), "unsafe_checkpoint", cause)
    inside = b"]\x94h\x00a."  # a list that holds itself
    assert_refused(torch_zip(tmp_path / "a.mdl", inside), "unsafe_checkpoint", "nested more than 64")
    shown = b"]" + b"2\x86" * 60 + b"K\x01\x81."  # in an error message
    assert_refused(torch_zip(tmp_path / "a.mdl", shown), "unsafe_checkpoint", "makes an object of")
    asked = b"]" + b"2\x86" * 60 + b"Q."
    assert_refused(torch_zip(tmp_path / "a.mdl", asked), "unsafe_checkpoint", "that is no storage")


def test_a_pickle_that_is_too_large_for_the_memory_it_may_have(tmp_path: Path) -> None:
    # 10 MB of empty dictionaries are 640 MB of memory.
    assert_refused(
        torch_zip(tmp_path / "a.mdl", b"(" + b"}" * 10_000_000 + b"l."),
        "unsafe_checkpoint",
        "to look into it takes more",
    )


def test_a_pickle_that_is_too_large(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.mdl", bytes(65 * 2**20))
    assert_refused(path, "unsafe_checkpoint", "more than 67108864")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_short(tmp_path: Path, new: bool) -> None:
    tree = torch_tree() | {"long": torch.randn(20_000)}
    torch.save(tree, tmp_path / "whole", _use_new_zipfile_serialization=new)
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "a.mdl"
    assert len(whole) > 65 * 1024
    with nothing_left(tmp_path):
        path.write_bytes(b"")
        for length in [*range(1024, 65 * 1024, 1024), len(whole) - 1]:
            path.write_bytes(whole[:length])
            assert opened_or_refused(path) is None, length
        path.unlink()


def test_a_flipped_byte_in_a_zip_changes_nothing_or_is_refused(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    torch.save({"model": {"weight": tensor}, "step": 5}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "a.mdl"
    for place in [place for place in range(len(whole)) if whole[place]][::41]:
        path.write_bytes(flipped(whole, place))
        container = opened_or_refused(path)
        if container is not None:
            with container:
                assert container.values == {"step": 5}
                assert values_or_refused(container.tensors["model.weight"]) in (tensor.tolist(), None)


def test_every_flipped_byte_of_the_values_in_a_zip_is_refused(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    torch.save({"last row": tensor[1], "turned": tensor.t(), "other": torch.ones(3)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    values = whole.index(tensor.numpy().tobytes())
    path = tmp_path / "a.mdl"
    path.write_bytes(whole)
    with open_container(path) as container:
        assert torch.equal(container.tensors["turned"].whole(), tensor.t())
    for place in range(values, values + tensor.nbytes, 5):
        path.write_bytes(flipped(whole, place))
        with open_container(path) as container:
            for name in ("last row", "turned", "turned"):
                with pytest.raises(InvalidDataError, match=f"'{name}' are damaged") as caught:
                    container.tensors[name].read_rows(0, 1)
                assert caught.value.reason == "unreadable_checkpoint"
            assert torch.equal(container.tensors["other"].whole(), torch.ones(3))


def values_or_refused(lazy: Lazy) -> object:
    """None when they are refused as damaged."""
    try:
        return lazy.whole().tolist()
    except InvalidDataError as error:
        assert error.reason == "unreadable_checkpoint"
        return None


def flipped(whole: bytes, place: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :]


def test_a_flipped_byte_in_a_legacy_file_is_no_crash(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(6.0)}, tmp_path / "whole", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "a.mdl"
    for place in range(0, len(whole), 29):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :])
        container = opened_or_refused(path)
        if container is not None:
            container.close()
