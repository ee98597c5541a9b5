"""The documented way from a corpus to a trained checkpoint, step by step, each command as a process of the system."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import ByteLevelBPETokenizer
from transformers import GPTJConfig, GPTJForCausalLM

from regraft.hdf5 import Dataset

LENGTH, STEPS = 64, 12


def regraft(folder: Path, *words: object) -> str:
    """What the command says on both streams."""
    program = [sys.executable, "-m", "regraft.cli", *map(str, words)]
    output = subprocess.STDOUT
    return subprocess.run(
        program, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cleaned, split and tokenised TRC2 in `train` and `val`, and a GPT-J with GPT-2's number of tokens in `base`."""
    folder = tmp_path_factory.mktemp("documented")
    regraft(folder, "sample", "trc2", "--output", "raw", "--stories", 150)
    regraft(folder, "trc2", "clean", "raw", "clean")
    regraft(folder, "trc2", "split", "--input_file", "clean", "--out_dir", "trc2", "--buffer_len", 100)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train([str(folder / "clean")], vocab_size=400, show_progress=False)
    tokenizer.save_model(str(folder))
    for part in ("train", "val"):
        words = ("--input_dir", "trc2/split_files", "--metadata_files", f"trc2/{part}_meta.txt", "--output_dir", part)
        words = (*words, "--tokenizer_type", "GPT2Tokenizer", "--vocab_file", "merges.txt")
        words = (*words, "--encoder_file", "vocab.json", "--max_seq_length", LENGTH, "--ftfy", "--write_remainder")
        regraft(folder, "create-hdf5", "preprocessed_text", *words)
    sizes = ("--vocab-size", 50257, "--hidden-size", 32, "--max-position-embeddings", LENGTH)
    regraft(folder, "sample", "checkpoint", "gptj", "--output", "base", *sizes, "--std", 0.02)
    return folder


def add_sections(work: Path, config: Path) -> Path:
    """The four sections that the converted config lacks, by hand, as the documented steps ask."""
    params = yaml.safe_load(config.read_text())
    assert list(params) == ["model"]
    params["model"] |= {"mixed_precision": False}
    data = {"data_processor": "GptHDF5DataProcessor", "batch_size": 4, "shuffle": False}
    params["train_input"] = {**data, "data_dir": "train"}
    params["eval_input"] = {**data, "data_dir": "val"}
    params["optimizer"] = {"optimizer_type": "AdamW", "learning_rate": 0.003, "max_gradient_norm": 1.0}
    params["runconfig"] = {"max_steps": 1000, "log_steps": 1, "checkpoint_steps": 5, "seed": 1}
    path = work / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def test_from_corpus_to_trained_checkpoint_and_back(work: Path) -> None:
    words = ("base/model.safetensors", "--config", "base/config.json", "--model", "gptj")
    said = regraft(work, "convert", *words, "--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--output-dir", "converted")
    assert "Checkpoint saved to converted/model_to_cs-1.8.mdl" in said
    params = add_sections(work, work / "converted" / "config_to_cs-1.8.yaml")
    run = ("run", "CPU", "--params", params.name, "--model_dir", "model_dir")
    start = ("--checkpoint_path", "converted/model_to_cs-1.8.mdl", "--is_pretrained_checkpoint")
    said = regraft(work, *run, "--mode", "train", "--max_steps", STEPS, *start)
    losses = [float(loss) for loss in re.findall(r"Train Device=cpu, Step=\d+, Loss=([\d.]+)", said)]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.5

    trained = f"model_dir/checkpoint_{STEPS}.mdl"
    said = regraft(work, *run, "--mode", "eval", "--checkpoint_path", trained)
    (scored,) = re.findall(r"Avg Eval\. Loss = ([\d.]+)", said)
    config = ("--config", "converted/config_to_cs-1.8.yaml", "--model", "gptj")
    regraft(work, "convert", trained, *config, "--src-fmt", "cs-1.8", "--tgt-fmt", "hf", "--output-dir", "back")
    assert float(scored) == pytest.approx(held_out_loss(work), rel=1e-5)
    assert float(scored) != pytest.approx(held_out_loss(work, shift=1), rel=1e-5)  # a planted error


def held_out_loss(work: Path, *, shift: int = 0) -> float:
    """Loss on the validation windows by `transformers`, of the checkpoint that came back."""
    settings = json.loads((work / "back" / "config_to_cs-1.8_to_hf.json").read_text())
    model = GPTJForCausalLM(GPTJConfig(**settings)).eval()
    model.load_state_dict(torch.load(work / "back" / f"checkpoint_{STEPS}_to_hf.bin", weights_only=True), strict=False)
    with Dataset(work / "val") as data:
        rows = torch.from_numpy(data.rows(range(len(data) // 4 * 4))).long()  # (n, 3, M)
    with torch.no_grad():
        logits = model(rows[:, 0]).logits  # (n, M, V)
    labels = rows[:, 2].roll(shift, dims=-1)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    mask = rows[:, 1].flatten().float()
    return float((losses * mask).sum() / mask.sum())
