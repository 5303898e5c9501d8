import pandas as pd
import pytest

from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.formats.markdown import escaped, render

EXPECTED = r"""- **device**: NVIDIA H100
- **budget**: rel_l2\<=0.01

A path keeps to the budget.

### prefill b1

| path | p50 ms | reason |
| --- | ---: | --- |
| bf16 | 0.0421 | a \| b |
| **fp16** | 10.3 |  |

- fp16: \*note\*

### to measure it again

```
autoprec tune --phase prefill
```

- two lines
"""


def test_a_document() -> None:
    document = Document(
        facts=(("device", "NVIDIA H100"), ("budget", "rel_l2<=0.01")),
        sentences=("A path keeps to the budget.",),
        sections=(
            Section(
                "prefill b1",
                (Column("path"), Column("p50 ms", Align.POINT, rank=9), Column("reason")),
                (Row(("bf16", "0.0421", "a | b")), Row(("fp16", "10.3", ""), marked=True)),
                ("fp16: *note*",),
            ),
            Section("to measure it again", command="autoprec tune --phase prefill"),
        ),
        notes=("two\nlines",),
        records=pd.DataFrame,
    )
    assert render(document) == EXPECTED


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("rel_l2 of row_rel_p999", "rel_l2 of row_rel_p999"),  # inside a word, no emphasis
        ("_so_ __init__", r"\_so\_ \_\_init\_\_"),
        ("<script>", r"\<script\>"),
        ("a\\|b `c` [d](e) ~f~ &amp; #1", r"a\\\|b \`c\` \[d\](e) \~f\~ \&amp; \#1"),
        ("bf16\r\n  fp32", "bf16 fp32"),
    ],
)
def test_what_github_takes_for_markup_is_escaped(text: str, markdown: str) -> None:
    assert escaped(text) == markdown
