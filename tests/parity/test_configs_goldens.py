"""Every config that the Model Zoo's converters wrote, made here key by key; both directions, and release to release.

Files of release 1.8.0 and of 2.10 (which writes all formats from cs-2.0 on). A planted error in any key is noticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.errors import InvalidDataError
from regraft.families import variant_named
from regraft_worker.conversion.config_files import convert_config
from regraft_worker.conversion.formats import FORMATS

ASSETS = Path(__file__).parents[1] / "assets" / "modelzoo"
TO_CS = sorted((ASSETS / "convert").glob("*__hf_to_cs-*.yaml"))
CS_1_8 = ASSETS / "release-1.8.0" / "config_to_cs-1.8.yaml"
CS_1_8_OF_2_0 = ASSETS / "cs_ckpt" / "gptj_v512_cs-1.8.yaml"
CS_2_9 = ASSETS / "cs_ckpt" / "gptj_v512_cs-2.9.yaml"


def converted(path: Path, source: str, target: str, model: str | None = None) -> str:
    family = variant_named(model) if model else None
    made = convert_config(path, model=family, source=FORMATS[source], target=FORMATS[target], drop=False)
    return made.text


def target_of(golden: Path) -> tuple[str, str]:
    """`gptj_v512`, `cs-2.0` of `gptj_v512__hf_to_cs-2.0__config_to_cs-2.0.yaml`."""
    name, pair, _ = golden.name.split("__")
    return name, pair.removeprefix("hf_to_")


def test_there_are_goldens_of_both_families() -> None:
    found = [target_of(path) for path in TO_CS]
    assert len([name for name, _ in found if name == "gptj_v512"]) == 10
    assert len([name for name, _ in found if name == "neox_par"]) == 9


@pytest.mark.parametrize("golden", TO_CS, ids=lambda path: "-".join(target_of(path)))
@pytest.mark.parametrize("headless", ["", "-headless"])
def test_hugging_face_to_every_release(golden: Path, headless: str) -> None:
    name, target = target_of(golden)
    model = ("gptj" if name == "gptj_v512" else "gpt-neox") + headless
    assert converted(ASSETS / "hf_ckpt" / name / "config.json", "hf", target, model) == golden.read_text()


def test_hugging_face_to_release_1_8() -> None:
    assert converted(ASSETS / "hf_ckpt" / "gptj_v512" / "config.json", "hf", "cs-1.8", "gptj") == CS_1_8.read_text()


def test_release_1_8_to_hugging_face() -> None:
    assert converted(CS_1_8, "cs-1.8", "hf") == CS_1_8.with_name("config_to_cs-1.8_to_hf.json").read_text()


def test_release_2_9_to_hugging_face() -> None:
    (golden,) = (ASSETS / "convert").glob("gptj_v512__cs-2.9_to_hf__*config.json")
    assert converted(CS_2_9, "cs-2.9", "hf") == golden.read_text()


@pytest.mark.parametrize(
    ("source", "path", "target", "golden"),
    [
        ("cs-2.0", ASSETS / "convert" / "gptj_v512__hf_to_cs-2.0__config_to_cs-2.0.yaml", "cs-1.8", CS_1_8_OF_2_0),
        ("cs-1.8", CS_1_8_OF_2_0, "cs-2.9", CS_2_9),
        ("cs-2.9", CS_2_9, "cs-1.8", CS_1_8_OF_2_0),
        *[
            ("cs-2.9", ASSETS / "cs_ckpt" / "neox_par_cs-2.9.yaml", target_of(path)[1], path)
            for path in TO_CS
            if target_of(path) in [("neox_par", "cs-2.1"), ("neox_par", "cs-2.3"), ("neox_par", "cs-2.8")]
        ],
    ],
    ids=str,
)
def test_release_to_release(source: str, path: Path, target: str, golden: Path) -> None:
    assert converted(path, source, target) == golden.read_text()


@pytest.mark.parametrize("name", ["gptj_v512", "neox_par"])
@pytest.mark.parametrize("release", [name for name in FORMATS if name != "hf"])
def test_every_release_comes_back_as_the_same_architecture(tmp_path: Path, name: str, release: str) -> None:
    there = convert_config(
        ASSETS / "hf_ckpt" / name / "config.json", model=None, source=FORMATS["hf"], target=FORMATS[release], drop=False
    )
    (tmp_path / "config.yaml").write_text(there.text)
    back = convert_config(
        tmp_path / "config.yaml", model=there.family, source=FORMATS[release], target=FORMATS["hf"], drop=False
    )
    assert back.architecture == there.architecture
    config = {"model_type": there.family.model_type, **json.loads(back.text)}
    assert there.family.read_config(config) == there.architecture


def test_a_wrong_word_in_any_key_is_noticed(tmp_path: Path) -> None:
    section: dict[str, Any] = yaml.safe_load(CS_2_9.read_text())["model"]
    golden = (ASSETS / "convert" / "gptj_v512__hf_to_cs-2.4__config_to_cs-2.4.yaml").read_text()
    for key, value in section.items():
        wrong = not value if isinstance(value, bool) else value + "x" if isinstance(value, str) else value * 2 + 1
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {**section, key: wrong}}))
        try:
            assert converted(tmp_path / "config.yaml", "cs-2.9", "cs-2.4") != golden, key
        except InvalidDataError as error:
            assert key in str(error) or "rotary" in str(error) or "heads" in str(error)
