"""What the machine code of a kernel that pipelines by hand must look like, loop by loop."""

import re
from collections.abc import Iterator

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+\S")
_LABEL = re.compile(r"^\s*(\.L\S+):")
# a loop ends in a branch back on a condition; without one are those to a barrier's second look
_BRANCH = re.compile(r"@!?U?P\d BRA\b.*`\((\.L\S+)\)")
_MOST = 2000  # instructions of an innermost loop


def loops(sass: str) -> Iterator[list[str]]:
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


def problems(sass: str) -> list[str]:
    """What is wrong with the loops: exponentials that wait for every product, and spills.

    A loop waits for the products of QK, takes the exponentials beside the PV product, and waits for
    that one last. ptxas moves the last wait to the front where nothing keeps it from doing so.
    """
    found = []
    seen = 0
    for loop in loops(sass):
        steps = re.findall(r"DEPBAR\.LE gsb0, 0x(\d+)|(MUFU\.EX2)|\b(STL|LDL)\b", "\n".join(loop))
        if any(spill for _, _, spill in steps):
            found.append("spills inside a loop")
        order = [wait if wait else "exp" for wait, exp, _ in steps if wait or exp]
        if "exp" not in order or order.count("0") != 1:
            continue  # the loop is another's: one that loads, or waits in turn
        seen += 1
        first = order.index("exp")
        if order.index("0") < len(order) - 1 - order[::-1].index("exp"):
            found.append("waits for the PV product before its last exponential")
        if not any(wait not in ("0", "exp") for wait in order[:first]):
            found.append("does not wait for the QK product alone")
    return sorted(set(found)) if seen else ["has no loop that overlaps exponentials and products"]
