"""What CI looks for in compiled kernels, on pieces of code that have it wrong."""

import pytest
from ci_scripts import load

machine_code = load("machine_code")

BARRIERS = """
%tiles = ttg.local_alloc : () -> !ttg.memdesc<2x64x64xbf16, #shared, #smem, mutable>
%full = ttg.local_alloc : () -> !ttg.memdesc<2x1xi64, #shared2, #smem, mutable>
%told = ttg.local_alloc : () -> !ttg.memdesc<1xi64, #shared2, #smem, mutable>
ttng.init_barrier %told, 1 : !ttg.memdesc<1xi64, #shared2, #smem, mutable>
ttg.warp_specialize(%tiles, %full{used}) attributes {{requestedRegisters = array<i32: 24>}}
"""


def test_barriers_that_parts_use() -> None:
    assert machine_code.barrier_problems(BARRIERS.format(used=", %told")) == []


def test_a_barrier_that_nothing_waits_for() -> None:
    found = machine_code.barrier_problems(BARRIERS.format(used=""))
    assert found == ["makes barriers that nothing waits for"]


def test_no_barriers() -> None:
    assert machine_code.barrier_problems("tt.return") == ["has no barriers"]


TELLS, WAITS = "griddepcontrol.launch_dependents;\n", "griddepcontrol.wait;\n"
LOAD, LEAVE = "ld.global.b32 %r1, [%rd1];\n", "@%p1 bra $L1;\n"
SOON = "does something before it waits for the launch before it"


@pytest.mark.parametrize(("ptx", "tells", "waits", "problems"), [
    (TELLS + LOAD, True, False, []),
    (WAITS + LOAD + LEAVE, False, True, []),
    (LOAD, True, False, ["does not let the next launch begin"]),
    (TELLS, False, False, ["lets a next launch begin"]),
    (LOAD, False, True, [SOON]),
    (LOAD + WAITS, False, True, [SOON]),
    (LEAVE + WAITS, False, True, [SOON]),
    (WAITS, False, False, ["waits for a launch that it does not overlap"]),
])  # fmt: skip
def test_launches_that_overlap(ptx: str, tells: bool, waits: bool, problems: list[str]) -> None:
    assert machine_code.overlap_problems(ptx, tells=tells, waits=waits) == problems


LOOP = """
.L_x_1:
        /*0010*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0020*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
{between}
        /*0050*/              @P0 BRA `(.L_x_1) ;
"""
EXP = "        /*0030*/                   MUFU.EX2 R1, R1 ;"
LAST = "        /*0040*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;"


@pytest.mark.parametrize(("between", "problems"), [
    ([EXP] * 8 + [LAST], []),
    ([EXP] * 8 + [LAST] + [EXP] * 4, []),  # of rows, which come after the product
    ([EXP] * 8 + [LAST] + [EXP] * 5, ["waits for the PV product before its last exponential"]),
    ([EXP] * 8, ["waits for the PV product before its last exponential"]),
    ([EXP, "        /*0038*/                   STL [R1], R2 ;", LAST], ["spills inside a loop"]),
    ([LAST], ["has no loop that overlaps exponentials and products"]),
])  # fmt: skip
def test_loops(monkeypatch: pytest.MonkeyPatch, between: list[str], problems: list[str]) -> None:
    sass = LOOP.format(between="\n".join(between))
    monkeypatch.setattr(machine_code, "_run", lambda *command: sass)
    assert machine_code.loop_problems(b"") == problems
