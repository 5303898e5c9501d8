"""A model's attention geometry, from a preset or from a Hugging Face config.json."""

import json
from pathlib import Path
from typing import Any

from autoprec.errors import InputError
from autoprec.jsonfile import read_json
from autoprec.model_config import HINT, from_config
from autoprec.model_layers import Geometry, Layers, shortened
from autoprec.types import Mask

MAX_BYTES = 1 << 20
_PRESETS = Path(__file__).with_name("presets.json")


def presets() -> dict[str, Geometry]:
    """Every preset by its name."""
    rows: dict[str, dict[str, Any]] = json.loads(_PRESETS.read_text(encoding="utf-8"))
    return {
        name: Geometry(**{**row, "layers": tuple(map(_layers, row["layers"]))}, name=name)
        for name, row in rows.items()
    }


def _layers(row: dict[str, Any]) -> Layers:
    mask = Mask(row.get("mask", Mask.CAUSAL))
    return Layers(**{"head_dim_v": row["head_dim"], **row, "mask": mask})


def load(text: str) -> Geometry:
    """The geometry of a preset, of a config.json, or of the folder that one lies in.

    Raises:
        InputError: There is no such preset and no such file, the file gives no geometry, or the
            preset's is not known.
    """
    known = presets()
    if text.lower() in known:
        found = known[text.lower()]
        if not found.layers:
            raise InputError(f"{found.name}: {found.unknown}.", "--model path/to/config.json")
        return found
    path = Path(text)
    try:
        if path.is_dir():
            path /= "config.json"
        there = path.exists()
    except OSError:  # such as a name that is too long for any file
        there = False
    if not there:
        raise InputError(
            f"--model {shortened(text)} is no preset and no file.",
            f"the path of a config.json, --heads and --head-dim, or one of {', '.join(known)}",
        )
    return from_config(read_json(path, "the model file", MAX_BYTES, HINT), str(path))
