"""The whole chain on large weights: prepare, train, export; `transformers` then computes what we compute.

Every matrix of the base is drawn with a standard deviation of 0.3, where a wrong rotary convention cannot hide.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from regraft.specs import DatasetSpec, ExportTask, PrepareTask, TargetSpec, TrainingSpec, TrainTask
from regraft.storage import local_path
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.sample import write_trc2_sample
from regraft_worker.conversion.export import export
from regraft_worker.model import Decoder
from regraft_worker.sample import write_sample_checkpoint
from regraft_worker.trainer.loop import train
from regraft_worker.trainer.weights import describe, load_model

TOLERANCE = 1e-4
LENGTH = 48


@pytest.fixture(scope="module", params=["gptj", "gptneox"])
def final(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported checkpoint of a short training run."""
    folder = tmp_path_factory.mktemp(request.param)
    corpus, base = folder / "corpus", folder / "base"
    write_trc2_sample(corpus, stories=60, seed=5)
    sizes = {"vocab_size": 300, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_position_embeddings": LENGTH}
    write_sample_checkpoint(base, family=request.param, tokenizer_text=corpus, seed=1, std=0.3, **sizes)
    dataset = prepare(
        PrepareTask(
            dataset=DatasetSpec(uri=str(corpus), max_sequence_length=LENGTH),
            tokenizer_uri=str(base),
            checkpoint_uri=str(base),
            output_uri=str(folder / "datasets"),
        )
    )
    trained = train(
        TrainTask(
            dataset_uri=dataset.uri,
            checkpoint_uri=str(base),
            training=TrainingSpec(batch_size=4, max_steps=8, learning_rate=1e-3),
            target=TargetSpec(kind="cpu"),
            output_uri=str(folder / "run"),
        )
    )
    task = ExportTask(checkpoint_uri=trained.uri, formats=("hf",), output_uri=str(folder / "export"))
    assert different(local_path(trained.uri), base)
    return local_path(export(task).artifacts["hf"])


def different(one: Path, other: Path) -> bool:
    weights = [load_model(folder, describe(folder), device="cpu").state_dict() for folder in (one, other)]
    return all(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0] if name.endswith("q.weight"))


def logits_of(model: Decoder, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().logits(model(ids))


def difference(folder: Path, *, wrong_rotary: bool = False) -> float:
    """Largest difference of logits, ours against theirs."""
    ids = torch.randint(0, 300, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = load_model(folder, describe(folder), device="cpu")
    if wrong_rotary:
        flipped = replace(ours.architecture, rotary_interleaved=not ours.architecture.rotary_interleaved)
        for layer in ours.layers:
            layer.architecture = flipped
    with torch.no_grad():
        return float((logits_of(ours, ids) - theirs(ids).logits).abs().max())


def test_transformers_gives_the_logits_of_the_final_checkpoint(final: Path) -> None:
    assert difference(final) < TOLERANCE


def test_a_wrong_rotary_convention_would_fail(final: Path) -> None:
    assert difference(final, wrong_rotary=True) > 100 * TOLERANCE
