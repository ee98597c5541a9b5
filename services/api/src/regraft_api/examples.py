"""Job examples for the interactive documentation; a test posts them."""

from __future__ import annotations

from typing import Any

_PATHS = {
    "dataset": {"uri": "file:///data/TRC2-headlines-docs-TRECBLOG.v2"},
    "base_checkpoint": {"uri": "file:///models/gpt-j-6b"},
}

JOBS: Any = {
    "smallest": {
        "summary": "The three things a job needs",
        "value": {**_PATHS, "target": {"kind": "cpu"}},
    },
    "recipe": {
        "summary": "GPT-J-6B on TRC2 by recipe",
        "value": {"name": "gptj-6b-trc2", "recipe": "gptj-6b-trc2", **_PATHS, "target": {"kind": "gpu", "devices": 8}},
    },
    "spelled-out": {
        "summary": "Everything that is usually set",
        "value": {
            "name": "news",
            "dataset": {**_PATHS["dataset"], "source": "trc2", "max_sequence_length": 512},
            "base_checkpoint": _PATHS["base_checkpoint"],
            "target": {"kind": "cpu"},
            "training": {
                "batch_size": 56,
                "max_steps": 25000,
                "schedule": [
                    {"linear": {"from": 0.0, "to": 6.0e-6, "steps": 500}},
                    {"cosine": {"from": 6.0e-6, "to": 1.2e-6, "steps": 50000}},
                    {"constant": {"value": 1.2e-6}},
                ],
                "evaluate": {"every_steps": 500},
                "checkpoint": {"every_steps": 1000, "keep_last": 3, "keep_best": "val_loss"},
            },
            "output": {"formats": ["hf", "cs-1.8"]},
            "labels": {"team": "news"},
        },
    },
}

CLONES: Any = {
    "longer": {
        "summary": "The same, trained for longer and slower",
        "value": {"overrides": {"name": "longer", "training": {"max_steps": 50000, "batch_size": 112}}},
    },
    "same": {"summary": "The same again", "value": {}},
}

PATCHES: Any = {
    "labels": {"summary": "Other labels", "value": {"labels": {"team": "news"}}},
    "first": {"summary": "Go first", "value": {"priority": "p1"}},
}

RESUMES: Any = {
    "as-before": {"summary": "On the same target", "value": {}},
    "on-another-target": {"summary": "On another target", "value": {"target": {"kind": "cpu"}}},
}
