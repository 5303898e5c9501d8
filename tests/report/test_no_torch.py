import subprocess
import sys

MODULES = "report", "summary", "explain", "paths", "probe", "frames"


def test_reports_need_no_torch() -> None:
    imports = "; ".join(f"import autoprec.report.{name}" for name in MODULES)
    unwanted = "{'torch', 'triton', 'pydantic'}"
    code = f"import sys; {imports}; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
