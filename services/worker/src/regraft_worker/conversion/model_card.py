"""The `README.md` of an exported model: what is known about it, and no headings for what is not.

`base_model` (text) and `datasets` (text or list of texts) of the provenance go into the front matter; all of the
provenance is printed as it is. A hub refuses a front matter that names a path, so of a path only its last part is
named there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import yaml

from regraft.families import Architecture, Family, parameter_count

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?")


def model_card(
    config: Mapping[str, object], family: Family, architecture: Architecture, provenance: Mapping[str, object]
) -> str:
    """Markdown with a YAML front matter."""
    known = json.loads(json.dumps(dict(provenance)))  # tuples to lists: YAML knows no tuples
    parts = [
        "---\n" + yaml.safe_dump(_front_matter(family, known), sort_keys=False) + "---",
        f"# {_title(family, known)}",
        _lead(family, known),
        _facts(config, family, architecture),
        _usage("AutoModel" if family.headless_of else "AutoModelForCausalLM"),
    ]
    if known:
        text = yaml.safe_dump(known, sort_keys=True, allow_unicode=True)
        parts.append(f"## Provenance\n\n```yaml\n{text}```")
    return "\n\n".join(parts) + "\n"


def _front_matter(family: Family, provenance: Mapping[str, object]) -> dict[str, object]:
    front: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction" if family.headless_of else "text-generation",
        "tags": [family.model_type, "continued-pretraining", "regraft"],
    }
    base = _hub_id(provenance.get("base_model"))
    if base:
        front["base_model"] = base
    datasets = [name for name in map(_hub_id, _listed(provenance.get("datasets"))) if name]
    if datasets:
        front["datasets"] = datasets
    return front


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _hub_id(value: object) -> str:
    """A name a hub accepts: the text itself, or the last part of a path or URI; empty when there is none."""
    if not isinstance(value, str):
        return ""
    name = value if _HUB_ID.fullmatch(value) else value.rstrip("/").rsplit("/", 1)[-1]
    return name if _HUB_ID.fullmatch(name) else ""


def _title(family: Family, provenance: Mapping[str, object]) -> str:
    name = provenance.get("name")
    return name if isinstance(name, str) and name.strip() else f"{family.name} model, further pre-trained"


def _lead(family: Family, provenance: Mapping[str, object]) -> str:
    start = f" from `{provenance['base_model']}`" if isinstance(provenance.get("base_model"), str) else ""
    corpora = ", ".join(f"`{name}`" for name in _listed(provenance.get("datasets")) if isinstance(name, str))
    on = f" on {corpora}" if corpora else ""
    return f"A {family.architectures[0]} language model, pre-trained further{start}{on} with Regraft."


def _facts(config: Mapping[str, object], family: Family, architecture: Architecture) -> str:
    rows = {
        "parameters": f"{parameter_count(family, architecture):,}",
        "layers": architecture.num_layers,
        "hidden size": architecture.hidden_size,
        "heads": architecture.num_heads,
        "vocabulary": f"{architecture.vocab_size:,}",
        "positions": f"{architecture.max_position_embeddings:,}",
        "stored as": config["dtype"],
    }
    return "## Model\n\n| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows.items())


def _usage(model: str) -> str:
    return f"""## Use

```python
from transformers import {model}, AutoTokenizer

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {model}.from_pretrained(folder)
```"""
