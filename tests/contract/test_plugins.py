"""What every plug-in and every stand-in of a port has to be, whoever writes it."""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from regraft import discover
from regraft.child import LineProgress
from regraft.families import FAMILIES, Family, detect, expected_tensors, parameter_count
from regraft.keymap import find_hf
from regraft.ports import NullProgress, Progress
from regraft.specs import TargetSpec
from regraft_dataprep.sources.base import Source
from regraft_worker.trainer.targets import PACKAGE as TARGETS
from regraft_worker.trainer.targets import target_for

SOURCES = "regraft_dataprep.sources"
BY_NAME = {"ids": lambda family: family.name}


@pytest.mark.parametrize("name", discover.names(SOURCES))
def test_a_source_has_its_entry_and_says_what_it_reads(name: str) -> None:
    module = discover.load(SOURCES, name)
    assert list(inspect.signature(module.open_source).parameters) == ["uri", "reading"]
    assert module.__doc__
    kinds = [found for _, found in inspect.getmembers(module, inspect.isclass) if issubclass(found, Source)]
    assert any(not inspect.isabstract(kind) for kind in kinds)


@pytest.mark.parametrize("name", discover.names(TARGETS))
def test_a_target_says_what_there_is_and_refuses_what_there_is_not(name: str) -> None:
    module = discover.load(TARGETS, name)
    facts = module.available()
    assert isinstance(facts["available"], bool)
    assert json.loads(json.dumps(facts)) == facts
    if not hasattr(module, "Target"):  # something else computes
        for entry in (module.train, module.preflight):
            assert list(inspect.signature(entry).parameters) == ["task", "progress"]
        with pytest.raises(ValueError, match=r"target\.kind"):
            target_for(TargetSpec.model_construct(kind=name))
        return
    if facts["available"] and not hasattr(module, "run_stage"):
        target = module.Target(1)
        assert isinstance(target.device, str)
        with target.autocast("fp32"):
            pass
        with pytest.raises(ValueError, match="fp99"):
            target.autocast("fp99")
    with pytest.raises(ValueError, match=r"target\.devices"):
        module.Target(10_000)


@pytest.mark.parametrize("family", FAMILIES, **BY_NAME)
def test_a_family_is_found_by_its_config_and_has_a_size(family: Family) -> None:
    config = {"model_type": family.model_type}
    assert detect(config) is family
    architecture = family.read_config(config)
    assert architecture.family == family.name
    assert parameter_count(family, architecture) > 10**9  # the defaults of a config are the published model's


@pytest.mark.parametrize("family", FAMILIES, **BY_NAME)
def test_every_name_of_a_family_belongs_to_one_tensor(family: Family) -> None:
    for names in (
        [tensor.hf for tensor in family.tensors],
        [name for tensor in family.tensors for name in tensor.own],
        [name for tensor in family.tensors for name in tensor.cs],
    ):
        assert len(names) == len(set(names))
    architecture = family.read_config({"model_type": family.model_type})
    for name in expected_tensors(family, architecture):
        row = find_hf(family, architecture, name)
        assert row is not None
        assert row.hf == name


@pytest.mark.parametrize("family", FAMILIES, **BY_NAME)
@pytest.mark.parametrize("value", [0, -1, "4", 2.5, True])
def test_a_family_refuses_impossible_sizes_by_name(family: Family, value: object) -> None:
    with pytest.raises(ValueError, match="vocab_size"):
        family.read_config({"model_type": family.model_type, "vocab_size": value})


def line_progress() -> LineProgress:
    return LineProgress(io.StringIO())


@pytest.mark.parametrize("make", [NullProgress, line_progress])
def test_a_progress_takes_everything_a_core_may_say(make: Callable[[], Progress]) -> None:
    progress = make()
    assert progress.should_stop() is False
    said: list[Any] = [
        progress.step(1, {"train_loss": 1.0}, total=2, tokens=3),
        progress.step(2, {}),
        progress.artifact("checkpoint", "file:///x", {"step": 1}),
        progress.event("text", level="warn", data={"a": None}),
        progress.event("text"),
    ]
    assert said == [None] * 5


def test_lines_are_json_objects_of_a_known_type() -> None:
    out = io.StringIO()
    progress = LineProgress(out)
    progress.step(1, {"x": 0.5}, tokens=2)
    progress.event("two\nlines")
    progress.stop()
    assert progress.should_stop()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines == [
        {"type": "step", "step": 1, "metrics": {"x": 0.5}, "total": None, "tokens": 2},
        {"type": "event", "message": "two\nlines", "level": "info", "data": None},
    ]
