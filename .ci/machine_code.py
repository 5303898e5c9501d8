"""What is wrong with a kernel's machine code: its products, its spills, and loops piped by hand."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+\S")
_LABEL = re.compile(r"^\s*(\.L\S+):")
# a loop ends in a branch back on a condition; without one are those to a barrier's second look
_BRANCH = re.compile(r"@!?U?P\d BRA\b.*`\((\.L\S+)\)")
_MOST = 3000  # instructions of an innermost loop
_SHRINKING = 4  # exponentials after that wait: of rows' shrinking, not of a tile
_CHAIN = 4  # products of a loop, of which some follow others without a wait


def judge(assembly: dict[str, Any], operand: str | None) -> tuple[int, list[str]]:
    """What a kernel spills, and what is wrong with it.

    Args:
        assembly: Of Triton's CompiledKernel.
        operand: What its products multiply; None where it has none.

    Returns:
        Bytes of a thread's stack, or vector registers on AMD; and sentences.
    """
    return _amd(assembly, operand) if "amdgcn" in assembly else _nvidia(assembly, operand)


def loop_problems(cubin: bytes) -> list[str]:
    """What is wrong with the loops: exponentials that wait for every product, and spills.

    A loop waits for the products of QK, takes the exponentials beside the PV product, and waits for
    that one last. ptxas moves the last wait to the front where nothing keeps it from doing so.
    """
    found = []
    exponentials = 0
    for loop in _loops(_run("nvdisasm", "-c", cubin)):
        steps = re.findall(r"DEPBAR\.LE gsb0, 0x(\d+)|(MUFU\.EX2)|\b(STL|LDL)\b", "\n".join(loop))
        if any(spill for _, _, spill in steps):
            found.append("spills inside a loop")
        order = [wait if wait else "exp" for wait, exp, _ in steps if wait or exp]
        if "exp" not in order:
            continue
        exponentials += 1
        first = order.index("exp")
        if "0" not in order or order[order.index("0") :].count("exp") > _SHRINKING:
            found.append("waits for the PV product before its last exponential")
        if not any(wait not in ("0", "exp") for wait in order[:first]):
            found.append("does not wait for the QK product alone")
    if not exponentials:
        found.append("has no loop that overlaps exponentials and products")
    return sorted(set(found))


def barrier_problems(ttgir: str) -> list[str]:
    """What is wrong with the barriers of a kernel whose warps have parts of their own.

    Memory of a barrier that no part uses is given away while it is a barrier still: what is kept
    there was seen to change when the GPU turned to another process and back.
    """
    parts = re.search(r"ttg\.warp_specialize\(([^)]*)\)", ttgir)
    used = re.findall(r"%\w+", parts[1]) if parts else []
    made = re.findall(r"(%\w+) = ttg\.local_alloc : \(\) -> !ttg\.memdesc<[0-9x]*xi64,", ttgir)
    if not made:
        return ["has no barriers"]
    return ["makes barriers that nothing waits for"] if set(made) - set(used) else []


def order_problems(cubin: bytes, *, ahead: bool) -> list[str]:
    """What is wrong with the loops of a kernel for Hopper that Triton has piped.

    Where an accumulator may hold a move's zeros as products run, ptxas has every product wait for
    the one before. Those of QK that run ahead are under way as the exponentials are taken.
    """
    found = []
    overlaps = False
    for loop in _loops(_run("nvdisasm", "-c", cubin)):
        steps = re.findall(r"(HGMMA)|(WARPGROUP\.ARRIVE)|(MUFU\.EX2)|(WARPGROUP\.DEPBAR)",
                           "\n".join(loop))  # fmt: skip
        products, starts = (sum(bool(step[i]) for step in steps) for i in (0, 1))
        if products == starts >= _CHAIN:
            found.append("has every product wait for the one before")
        first = next((i for i, step in enumerate(steps) if step[0]), len(steps))
        after = next((step for step in steps[first:] if step[2] or step[3]), ("",) * 4)
        overlaps |= bool(after[2])
    if ahead and not overlaps:
        found.append("has no loop that takes exponentials beside the products ahead")
    return sorted(set(found))


def overlap_problems(ptx: str, *, tells: bool, waits: bool) -> list[str]:
    """What is wrong with one of two launches that overlap.

    Args:
        ptx: NVIDIA's assembly.
        tells: Whether it lets the next launch begin before it has ended.
        waits: Whether it begins so, and must wait before it reads memory, or ends.
    """
    steps = re.findall(
        r"griddepcontrol\.(\w+)|\b(?:ld|st|red|atom|cp\.\S+)\.global\b|\b(?:bra|ret)\b", ptx
    )
    found = []
    if waits and steps[:1] != ["wait"]:
        found.append("does something before it waits for the launch before it")
    if tells != ("launch_dependents" in steps):
        found.append("does not let the next launch begin" if tells else "lets a next launch begin")
    if not waits and "wait" in steps:
        found.append("waits for a launch that it does not overlap")
    return found


def _loops(sass: str) -> Iterator[list[str]]:
    """The innermost loops that multiply, as ``nvdisasm`` prints their instructions."""
    instructions: list[str] = []
    places: dict[str, int] = {}
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            places[label[1]] = len(instructions)
        elif _INSTRUCTION.search(line):
            instructions.append(line)
    end = -1
    for place, line in enumerate(instructions):
        branch = _BRANCH.search(line)
        start = places.get(branch[1], place + 1) if branch else place + 1
        if end < start <= place < start + _MOST:
            loop = instructions[start : place + 1]
            if any("HGMMA" in it for it in loop):
                end = place
                yield loop


def _run(tool: str, option: str, cubin: bytes) -> str:
    """What a tool that comes with Triton prints of a cubin."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        ended = subprocess.run(
            [path, option, file.name], capture_output=True, text=True, check=True
        )
    return ended.stdout + ended.stderr


def _nvidia(assembly: dict[str, Any], operand: str | None) -> tuple[int, list[str]]:
    """Bytes on a cubin's stack, and what is wrong with it; operand: of its products, if any."""
    usage = _run("cuobjdump", "-res-usage", assembly["cubin"])
    stack = max(int(n) for n in re.findall(r"STACK:(\d+)", usage))
    if operand is None:
        return stack, []
    ptx = assembly["ptx"]
    products = set(re.findall(r"(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)\.[\w.:]+", ptx))
    if operand == "fp32":
        if products or "fma.rn.f32" not in ptx:
            return stack, [f"multiplies fp32 with {', '.join(sorted(products)) or 'no FMA'}"]
        return stack, []
    types = {"tf32": (".tf32.", "kind::tf32"), "bf16": (".bf16.", "kind::f16"),
             "fp16": (".f16.", "kind::f16")}[operand]  # fmt: skip
    wrong = {op for op in products if not any(name in f"{op}." for name in types)}
    if wrong or not products:
        problem = f"multiplies {operand} with {', '.join(sorted(wrong)) or 'no MMA'}"
        return stack, [problem + (" and traps" if re.search(r"^\s*trap;", ptx, re.M) else "")]
    return stack, []


def _amd(assembly: dict[str, Any], operand: str | None) -> tuple[int, list[str]]:
    """Spilled vector registers of AMD assembly, and what is wrong with it."""
    text = assembly["amdgcn"]
    spills = max(int(n) for n in re.findall(r"\.vgpr_spill_count:\s+(\d+)", text))
    if operand is None:
        return spills, []
    products = set(re.findall(r"\bv_mfma_\w+", text))
    suffix = {"fp32": "_f32", "tf32": "_xf32", "bf16": "_bf16", "fp16": "_f16"}[operand]
    wrong = {op for op in products if not re.sub(r"_1k$", "", op).endswith(suffix)}
    if wrong or not products:
        return spills, [f"multiplies {operand} with {', '.join(sorted(wrong)) or 'no MFMA'}"]
    return spills, []
