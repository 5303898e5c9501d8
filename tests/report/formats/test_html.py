"""The page: what is on it, and that names cannot break out of it."""

import re
from dataclasses import replace

from made_up import measurement, profile, rows, workload

from autoprec.report.formats.html import MAX_BYTES
from autoprec.report.report import render
from autoprec.types import Profile, Status


def page(it: Profile | None = None, label: str = "h100.json") -> str:
    return render([(label, it or profile())], "html")


def test_the_verdict_is_on_top() -> None:
    text = page()
    assert "<h1>Within rel_l2&lt;=0.01, the chosen paths run all 4 workloads at " in text
    assert text.index("<h1>") < text.index("<svg") < text.index("<table") < text.index("<dl>")
    assert '<p class="kicker">autoprec on NVIDIA H100 80GB HBM3, 2026-11-23</p>' in text
    assert text.startswith("<!doctype html>\n")
    assert text.endswith("</html>\n")


def test_it_has_pictures_tables_environment_and_why_not_for_every_path() -> None:
    text = page()
    assert text.count("<figure><svg") == 12
    assert text.count("<details>") == 4
    assert "torch 2.13.0+cu130, triton 3.7.1, driver 580.82" in text
    details = text[text.index("<details>") :]
    for row in rows():
        assert f"<td>{row.path}<td>{row.kernel}" in details
    assert "torch&#39;s flash backend takes no fp32" in details


def test_it_needs_nothing_from_elsewhere() -> None:
    text = page()
    assert not re.search(r"(src|href)=.?(?!#|\w+\.json)(https?:|//|\w)", text)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_names_are_escaped_everywhere() -> None:
    name = "<script>alert(1)</script>"
    odd = [
        replace(row, path=f"sdpa-{name}", kernel=name) if row.path.startswith("sdpa-") else row
        for row in rows()
    ]
    text = page(profile(odd, recorded_by=f"{name}&", remarks=[name, "</style>"]), label=f'{name}"')
    assert text.count("<script>") == 1
    assert text.count("</style>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text


def test_a_large_profile_stays_below_the_limit_and_says_what_is_missing() -> None:
    many = [
        measurement(row.path, row.p50_ms, 1e-4, workload=workload(kv_len=64 * length, batch=batch))
        for length in range(1, 40)
        for batch in range(1, 9)
        for row in rows()[:5]
    ]
    text = page(profile(many))
    assert len(text.encode()) < MAX_BYTES
    assert re.search(r"<li>the tables of \d+ workloads left out to keep this page below 500", text)


def test_what_was_never_measured_makes_a_page_too() -> None:
    none = {"status": Status.SKIPPED, "reason": "no time"}
    assert "<h1>Nothing was measured.</h1>" in page(profile([]))
    assert "no time" in page(profile([measurement("fp16", None, None, **none)]))


def test_a_comparison_is_a_page() -> None:
    text = render([("a.json", profile()), ("b.json", profile(rows()[:9]))], "html")
    assert "<h1>B against A: the choices are as fast in the geometric mean" in text
    assert "<summary>prefill b1 q4096 kv4096 32/8 d128 causal fp32 <b>fp16 same</b>" in text
