"""The output of a group as tiles go by: its rows shrink as a larger logit, or unit, comes."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def scaled(acc, shrink):
    """The output, each row times a factor."""
    return acc * gl.convert_layout(shrink, gl.SliceLayout(1, acc.type.layout))[:, None]


@gluon.constexpr_function
def _unless_one(registers):
    """PTX that multiplies numbers by their factors, unless all of a warp's factors are 1.

    A thread has two rows, of which its first and its third number are.
    """
    to = [f"${i}" for i in range(registers)]
    by = [f"${2 * registers + i}" for i in range(registers)]
    lines = ["{", ".reg .pred p, q;", "setp.ne.f32 p, " + by[0] + ", 0f3F800000;"]
    lines += ["setp.ne.or.f32 p, " + by[2] + ", 0f3F800000, p;"]
    lines += ["vote.sync.any.pred q, p, 0xffffffff;", "@!q bra SAME_${:uid};"]
    lines += [f"mul.f32 {t}, {t}, {b};" for t, b in zip(to, by, strict=True)]
    return "\n".join([*lines, "SAME_${:uid}:", "}"])


@gluon.constexpr_function
def _tied(registers):
    """The constraints of ``_unless_one``."""
    kinds = ["=f"] * registers + [str(i) for i in range(registers)] + ["f"] * registers
    return ",".join(kinds)


@gluon.jit
def scaled_unless_one(acc, shrink):
    """The output, each row times a factor, unless all factors of a warp are 1.

    After the first tiles they mostly are: the largest logit so far mostly stays the largest.
    """
    factors = gl.convert_layout(shrink, gl.SliceLayout(1, acc.type.layout))[:, None]
    factors = factors.broadcast_to(acc.shape)
    many: gl.constexpr = acc.shape[1] // 2  # registers of a thread
    return gl.inline_asm_elementwise(_unless_one(many), _tied(many), [acc, factors],
                                     dtype=gl.float32, is_pure=True, pack=many)  # fmt: skip
