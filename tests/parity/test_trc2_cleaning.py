"""Cleaning equals the documented command line: six `sed` passes and `iconv -c`, run for real.

GNU `iconv` lets code points above U+10FFFF pass (the obsolete forms that start with 0xF4 0x90 to 0xFD). They are no
UTF-8 and no text; cleaning drops them. The comparison is exact without them, and with them once they are taken out of
the tools' output.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from regraft_dataprep.clean import clean_lines
from regraft_dataprep.sample import write_trc2_sample

PASSES = (r"</[A-Z0-9]*>", r"<[A-Z0-9]*>", r"[-0-9: ]*", r"TRC2-[-0-9]*", r"\[.*\]", r"(Click on the Z.*")
GOLDENS = os.environ.get("REGRAFT_GOLDENS")

needs_tools = pytest.mark.skipif(
    not (shutil.which("sed") and shutil.which("iconv")), reason="sed or iconv is not installed"
)


def run(*command: str, data: bytes) -> bytes:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    done = subprocess.run(command, input=data, capture_output=True, env=environment, check=False)
    # iconv exits with 1 when it dropped something at the end of its input; what it wrote is whole.
    assert done.returncode == 0 or command[0] == "iconv", done.stderr
    return done.stdout


def tools(data: bytes, *, passes: tuple[str, ...] = PASSES) -> bytes:
    for pattern in passes:
        data = run("sed", "-e", f"s%{pattern}%%", data=data)  # a delimiter that no pattern holds: none is escaped
    return run("iconv", "-f", "utf-8", "-t", "utf-8", "-c", data=data)


def only_utf8(data: bytes) -> bytes:
    return data.decode("utf-8", "ignore").encode()


# Pieces that the passes look for, beside plain bytes.
PIECES = st.sampled_from(
    rb"< > </ <DOC> </DOC> <b> <A1> A1 TRC2- 2008-08-10 12:30:01 - : [ ] [ID:nL1] (Click (Click_on_the_Z &amp;".split()
).map(lambda piece: piece.replace(b"_", b" ")) | st.sampled_from(
    [b" ", b"\r", b"\t", b"\x00", b"\xc3\xa9", b"\xe2\x82\xac", b"\xe2\x82", b"\xff", b"\xed\xa0\x80", b"\xc0\x80"]
)
LINE = st.lists(PIECES | st.binary(max_size=6), max_size=14).map(lambda parts: b"".join(parts).replace(b"\n", b""))
LINES = st.lists(LINE, min_size=1, max_size=300).map(lambda lines: b"\n".join(lines) + b"\n")
TOOL_SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@needs_tools
@TOOL_SETTINGS
@given(LINES)
@example(b"]a[b]c[d\n[]\n[[]]]\n][\n")
@example(b"\\ 1\n")
@example(b"<<A>>\n</<A>>\n<A</A>>\n</A></A><A><A>\n")
@example(b"\xe2<A>\x82\xac\n[\xff]\n\xff12 x\n\xe2\x82\n")
@example(b"\xf4\x90\x80\x80z\n\xf8\x88\x80\x80\x80z\n\xfc\x84\x80\x80\x80\x80\n")
def test_any_line_is_cleaned_as_the_tools_clean_it(data: bytes) -> None:
    assert clean_lines(data) == only_utf8(tools(data))


@needs_tools
@TOOL_SETTINGS
@given(LINES.map(lambda data: data.translate(bytes(byte if byte < 0xF4 else 0xC3 for byte in range(256)))))
def test_the_tools_output_needs_no_filter_below_the_obsolete_forms(data: bytes) -> None:
    assert clean_lines(data) == tools(data)


@needs_tools
def test_a_sample_corpus_is_cleaned_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "sample"
    write_trc2_sample(path, stories=1500, seed=11)
    data = path.read_bytes()
    assert clean_lines(data) == tools(data)


@needs_tools
@pytest.mark.parametrize("left_out", range(len(PASSES)))
def test_the_comparison_notices_a_missing_pass(tmp_path: Path, left_out: int) -> None:
    path = tmp_path / "sample"
    write_trc2_sample(path, stories=200, seed=11)
    data = path.read_bytes()
    assert clean_lines(data) != tools(data, passes=PASSES[:left_out] + PASSES[left_out + 1 :])


@pytest.mark.skipif(not GOLDENS, reason="REGRAFT_GOLDENS names no folder of reference outputs")
def test_the_reference_corpus_is_cleaned_to_the_reference_file() -> None:
    folder = Path(str(GOLDENS)) / "data"
    name = "TRC2-headlines-docs-TRECBLOG.v2"
    cleaned = clean_lines((folder / "inputs" / name).read_bytes())
    expected = (folder / f"{name}.clean").read_bytes()
    assert hashlib.sha256(cleaned).hexdigest() == hashlib.sha256(expected).hexdigest()
