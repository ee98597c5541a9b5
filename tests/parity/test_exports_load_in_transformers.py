"""What this project writes, opened by `transformers` itself: same weights, same logits, no complaint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers

from regraft.formats import FormatName
from regraft.specs.stages import ConvertTask, ExportTask
from regraft.storage import local_path
from regraft_worker.conversion.bits import same_bits
from regraft_worker.conversion.convert import convert
from regraft_worker.conversion.export import export
from regraft_worker.sample import write_sample_checkpoint

ASSETS = Path(__file__).parents[1] / "assets" / "modelzoo" / "hf_ckpt"


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    """What `transformers` logs at warning level or above; Python warnings fail a test anyway."""
    transformers.utils.logging.warning_once.cache_clear()  # some complaints are made once per process
    collector, logger = _Collector(), logging.getLogger("transformers")
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)


def load(folder: Path):  # type: ignore[no-untyped-def]
    with listening() as complaints:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert complaints == []
    assert not any(info.values())
    return model.eval()


def logits(model) -> torch.Tensor:  # type: ignore[no-untyped-def]
    ids = torch.arange(60).reshape(2, 30) * 7 % model.config.vocab_size
    with torch.no_grad():
        return model(ids).logits


def assert_same_model(left: Path, right: Path) -> None:
    first, second = load(left), load(right)
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not same_bits(ours[name], theirs[name])] == []
    assert same_bits(logits(first), logits(second))


def test_complaints_of_transformers_are_heard(tmp_path: Path) -> None:
    write_sample_checkpoint(tmp_path / "a", family="gptj")
    path = tmp_path / "a" / "config.json"
    path.write_text(path.read_text().replace('"eos_token_id": 0', '"eos_token_id": 50256'))
    with pytest.raises(AssertionError, match="eos_token_id must be"):
        load(tmp_path / "a")


@pytest.mark.parametrize("name", ["gptj_v512", "neox_par"])
def test_an_exported_model_has_the_weights_and_logits_of_its_source(tmp_path: Path, name: str) -> None:
    task = ExportTask(checkpoint_uri=str(ASSETS / name), formats=("hf",), output_uri=str(tmp_path))
    assert_same_model(local_path(export(task).artifacts["hf"]), ASSETS / name)


@pytest.mark.parametrize("name", ["gptj_v512", "neox_par"])
@pytest.mark.parametrize("release", ["cs-1.7", "cs-1.8", "cs-2.9"])
def test_a_model_that_was_in_cerebras_format_has_the_logits_of_its_source(
    tmp_path: Path, name: str, release: FormatName
) -> None:
    task = ExportTask(checkpoint_uri=str(ASSETS / name), formats=(release,), output_uri=str(tmp_path))
    folder = local_path(export(task, transformers_share=0.0).artifacts[release])
    (model,) = folder.glob("*.mdl")
    result = convert(ConvertTask(checkpoint_uri=str(model), output_uri=str(tmp_path / "back")))
    assert_same_model(local_path(result.uri), ASSETS / name)


@pytest.mark.parametrize("family", ["gptj", "gptneox"])
def test_a_sample_loads_with_its_tokenizer_and_survives_an_export(tmp_path: Path, family: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Shares rose in London. Shares fell in Tokyo.\n" * 30)
    write_sample_checkpoint(tmp_path / "sample", family=family, tokenizer_text=text, std=0.1)  # type: ignore[arg-type]
    task = ExportTask(checkpoint_uri=str(tmp_path / "sample"), formats=("hf",), output_uri=str(tmp_path / "out"))
    folder = local_path(export(task).artifacts["hf"])
    assert_same_model(folder, tmp_path / "sample")
    for place in (folder, tmp_path / "sample"):
        with listening() as complaints:
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        assert complaints == []
        ids = tokenizer("Shares rose in Tokyo.<|endoftext|>")["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id == tokenizer.bos_token_id == 0
        assert tokenizer.decode(ids[:-1]) == "Shares rose in Tokyo."
        assert tokenizer.model_max_length == 128
    assert load(folder).generation_config.eos_token_id == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model_is_loaded_as_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    load(ASSETS / "gptj_v512").to(dtype).save_pretrained(tmp_path / "half")
    result = convert(ConvertTask(checkpoint_uri=str(tmp_path / "half"), output_uri=str(tmp_path / "out")))
    loaded = load(local_path(result.uri))
    assert loaded.dtype == dtype
    assert same_bits(loaded.lm_head.weight, load(tmp_path / "half").lm_head.weight)
