"""Named defaults for a dataset, filled in before it is checked.

`corrected` is what the fields' own defaults say. `reference` makes, of a TRC2 file, the arrays that the documented
steps make (clean, split into shards of lines, tokenise), their losses included; a plan shows what it stands for. What
is given wins over it, option by option: another share that is held out, or shards of another size, are the original's
own flags, and most other options make arrays that it never made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from regraft.specs.base import Spec
from regraft.specs.cleaning import REFERENCE

Preset = Literal["corrected", "reference"]

_OPTIONS: dict[object, dict[str, Any]] = {
    "reference": {
        "reading": {"documents": "shard"},
        "cleaning": REFERENCE,
        "validation": {"order": "last", "near_duplicates": None},
        "packing": {"remainder": "drop"},
    },
}


def filled_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataset, with those that its preset adds."""
    filled, preset = dict(given), given.get("preset")
    for name, options in _OPTIONS.get(preset, {}).items() if isinstance(preset, str) else ():
        filled[name] = _over(options, filled[name]) if name in filled else options
    return filled


def _over(options: Any, value: Any) -> Any:
    value = value.model_dump(exclude_unset=True) if isinstance(value, Spec) else value
    return {**options, **value} if isinstance(options, Mapping) and isinstance(value, Mapping) else value
