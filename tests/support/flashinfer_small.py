"""A small batch, of which one thing is changed at a time."""

from typing import Any

import torch
from flashinfer_cases import Case

SPACE = torch.empty(64, dtype=torch.uint8)
Q, K = torch.zeros(3, 2, 8), torch.zeros(5, 2, 8)


def case(**changes: Any) -> Case:
    values: dict[str, Any] = {
        "kv_lens": [9, 0, 4], "q_lens": [2, 1, 3], "heads": (2, 2), "dims": (8, 8),
        "page_size": 4, "form": "NHD whole", "dtype": torch.float32, "out_dtype": torch.float32,
        "window_left": -1, "soft_cap": None, "causal": True, "wide": False, "seed": 0,
    }  # fmt: skip
    return Case(**values | changes)
