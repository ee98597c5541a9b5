"""The formats a checkpoint can be in: Hugging Face's, and Cerebras' by release.

A format is two things: an encoding of the file, and the keys of its config. The tensors of our two families are the
same in every Cerebras release, so every pair of formats can be converted, more than any one release of the original
tool offers. What a release adds to or takes from a config is in `cs_config`; this is the table of the rest.

When not to use it: to find out how a file is encoded; that is `containers`, whatever its format is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import FAMILIES, HEADLESS
from regraft.formats import FORMAT_NAMES, Release, release_of

Era = Literal["pickle", "hdf5"]

AUTO = "cs-auto"
_NEWEST = (2, 9)
_VERIFICATION = ".verification.json"
_SUFFIXES = (".bin.index.json", ".safetensors.index.json", ".index.json", ".safetensors", ".bin", ".mdl", ".pt")


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row of the table."""

    name: str
    release: Release | None = None
    """Cerebras' release, None for Hugging Face."""
    reads: tuple[str, ...]
    """Encodings that this release's own tools load."""
    writes: str
    """The encoding written for it."""
    writes_on_request: str = ""
    """With `--export-h5-checkpoint` (Cerebras) or `--export-safetensors` (Hugging Face); empty: not to be had."""
    prefix: str = ""
    """What its tensor names begin with, inside `model`."""

    @property
    def is_cs(self) -> bool:
        return self.release is not None

    @property
    def era(self) -> Era:
        """`pickle` up to 1.9, where a conversion to Hugging Face is one file; `hdf5` later, where it is a folder."""
        return "pickle" if self.release is not None and self.release < (2, 0) else "hdf5"


@dataclass(frozen=True)
class Outputs:
    """Where a conversion goes."""

    checkpoint: Path
    """A file, or for Hugging Face from release 2.0 on a folder."""
    config: Path

    @property
    def is_folder(self) -> bool:
        return self.config.parent == self.checkpoint

    @property
    def verification(self) -> Path:
        """The proof: beside a file, in a folder."""
        return self.checkpoint / "verification.json" if self.is_folder else self.checkpoint.with_suffix(_VERIFICATION)


def _cs(major: int, minor: int, hdf5: str) -> Format:
    """A release that knows HDF5 up to version `hdf5`, of which only 0.5 can be written here; torch files load in all.

    Release 1.7 takes only names with the prefix, later ones both. The newest release gets what it writes itself.
    """
    written = "hdf5-0.5" if hdf5 == "hdf5-0.5" else ""
    newest = (major, minor) == _NEWEST
    return Format(
        name=f"cs-{major}.{minor}",
        release=(major, minor),
        reads=("torch-zip", "torch-legacy", *_hdf5_up_to(hdf5)),
        writes=written if newest else "torch-zip",
        writes_on_request=written,
        prefix="model." if (major, minor) == (1, 7) else "",
    )


def _row(release: Release | None) -> Format:
    if release is None:
        return HF
    major, minor = release
    newest = f"hdf5-0.{minor - 6}" if major == 1 else "hdf5-0.4" if minor < 6 else "hdf5-0.5"
    return _cs(major, minor, newest)


def _hdf5_up_to(newest: str) -> tuple[str, ...]:
    known = tuple(f"hdf5-0.{number}" for number in range(1, 6))
    return known[: known.index(newest) + 1]


HF = Format(
    name="hf", reads=("safetensors", "torch-zip", "torch-legacy"), writes="torch-zip", writes_on_request="safetensors"
)
FORMATS: Mapping[str, Format] = {name: _row(release_of(name)) for name in FORMAT_NAMES}
NEWEST = "cs-2.9"
_ALIASES: Mapping[str, str] = {
    "cs-current": "cs-current is cs-2.9",
    "cs-2.10": "cs-2.10 is taken as cs-2.9: its tensors and its config keys are the same",
}


def format_named(name: str, *, field: str) -> tuple[Format, str]:
    """The format, and a note for the user when he named it by an alias.

    Raises:
        InvalidInputError: there is no such format.
    """
    if name in _ALIASES:
        return FORMATS[NEWEST], _ALIASES[name]
    if name in FORMATS:
        return FORMATS[name], ""
    known = ", ".join((*FORMATS, *_ALIASES, *([AUTO] if field == "--src-fmt" else [])))
    raise InvalidInputError(
        "this format is not supported",
        field=field,
        value=name,
        remedy=f"Use one of: {known}.",
        reason="unsupported_format",
    )


def detect_format(values: Mapping[str, object], encoding: str, *, stem: str = "") -> Format:
    """The Cerebras format of a file, from what it says of itself.

    A file that a training run wrote names its release, the newest last. One that a converter wrote may not; then its
    name (`stem`, ending `_to_cs-2.2`) decides, and at last the encoding: of releases that share one, the first.

    Raises:
        InvalidDataError: this is no Cerebras checkpoint.
    """
    if not any(name == "model" or name.startswith("model.") for name in values) and encoding == "safetensors":
        raise InvalidDataError(
            "Cerebras releases write no safetensors; this is a Hugging Face checkpoint",
            field="--src-fmt",
            value=AUTO,
            remedy="Use --src-fmt hf.",
            reason="unsupported_format",
        )
    named = [values[key] for key in sorted(values, key=_position) if _is_version(key)]
    for said in reversed(named):
        release = _release(said)
        if release is not None:
            return FORMATS.get(f"cs-{release[0]}.{release[1]}", FORMATS[NEWEST])
    converted = FORMATS.get(stem.rpartition("_to_")[2])
    if converted is not None and converted.is_cs:
        return converted
    by_encoding = {"hdf5-0.1": "cs-1.7", "hdf5-0.3": "cs-1.9", "hdf5-0.4": "cs-2.0", "hdf5-0.5": NEWEST}
    return FORMATS[by_encoding.get(encoding, "cs-1.8")]


def pairs() -> list[tuple[str, str, str]]:
    """Model, source formats, target formats: the rows of `regraft list`."""
    releases = [name for name in FORMATS if name != "hf"]
    shown = f"{releases[0]} ... {releases[2]}, {releases[3]} ... {releases[-1]}"
    names = [family.name for family in (*FAMILIES, *HEADLESS)]
    rows = []
    for name in names:
        rows.append((name, "hf", shown))
        rows.append((name, f"{shown}, {AUTO}", f"hf, {shown}"))
    return rows


def output_paths(folder: Path, checkpoint: Path, config: Path, *, source: Format, target: Format, h5: bool) -> Outputs:
    """The names that the original tool gives; `h5` is `--export-safetensors` when the target is Hugging Face."""
    name = f"{stem_of(checkpoint)}_to_{target.name}"
    if target.is_cs:
        return Outputs(folder / f"{name}.mdl", folder / f"{config.stem}_to_{target.name}.yaml")
    if source.era == "pickle":
        weights = f"{name}.safetensors" if h5 else f"{name}.bin"
        return Outputs(folder / weights, folder / f"{config.stem}_to_hf.json")
    return Outputs(folder / name, folder / name / "config.json")


def stem_of(path: Path) -> str:
    """A file's name without what says how it is encoded; dots in the name stay."""
    if path.is_dir():
        return "pytorch_model"
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def _is_version(key: str) -> bool:
    return key.startswith("__metadata__.") and key.endswith(".version") and key.count(".") == 2


def _position(key: str) -> int:
    number = key.split(".")[1] if _is_version(key) else ""
    return int(number) if number.isdecimal() else -1


def _release(said: object) -> Release | None:
    """`2.2.1` or `2.10` as numbers; read as a fraction, 2.10 would be 2.1."""
    major, _, rest = str(said or "").partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
