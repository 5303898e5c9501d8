import subprocess
import sys
from pathlib import Path

MODULES = "report", "summary", "explain", "paths", "probe", "frames"


def test_reports_need_no_torch() -> None:
    imports = "; ".join(f"import autoprec.report.{name}" for name in MODULES)
    unwanted = "{'torch', 'triton', 'pydantic'}"
    code = f"import sys; {imports}; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_explanation_needs_no_pandas() -> None:
    code = (
        "import sys, made_up; from autoprec.report.explain import explain; "
        "explain(made_up.profile(), made_up.workload()); print('pandas' in sys.modules)"
    )
    support = Path(__file__).parents[1] / "support"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.append({str(support)!r}); {code}"],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
