"""A report's records as JSON."""

import json
from typing import Any

from autoprec.report.document import Document


def render(document: Document) -> str:
    """A list with an object for each record; what is missing is null.

    Written by the standard library: pandas' own writer keeps ten decimals, and an error of
    5.4e-7 would lose its digits.
    """
    from pandas import isna  # not before it is wanted: it takes long to load

    def plain(value: Any) -> Any:
        if isna(value):
            return None
        return value.item() if hasattr(value, "item") else value  # numpy's numbers into Python's

    records = [
        {str(key): plain(value) for key, value in record.items()}
        for record in document.frame.to_dict("records")
    ]
    return json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
