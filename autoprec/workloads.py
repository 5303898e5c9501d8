"""Workloads from the lists of sizes that a person types, and back into a command."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from autoprec.errors import InputError
from autoprec.model_layers import Geometry, Layers
from autoprec.sizes import Sizes, Values, read
from autoprec.types import MAX_DECODE_Q_LEN, Dtype, Layout, Mask, Phase, Profile, Workload


@dataclass(frozen=True, kw_only=True)
class _Defaults:
    batch: dict[Phase, tuple[int, ...]]
    kv_len: dict[Phase, tuple[int, ...]]
    q_len: dict[Phase, int | None]
    input_dtype: tuple[Dtype, ...]

    def within(self, context: int) -> "_Defaults":
        """The same with no kv_len over a model's context."""
        lengths = {
            phase: tuple(min(kv_len, context) for kv_len in self.kv_len[phase]) for phase in Phase
        }
        return replace(self, kv_len=lengths)


_GPU = _Defaults(
    batch={Phase.PREFILL: (1,), Phase.APPEND: (1,), Phase.DECODE: (1, 16, 64)},
    kv_len=dict.fromkeys(Phase, (1024, 8192)),
    q_len={Phase.PREFILL: None, Phase.APPEND: 512, Phase.DECODE: 1},
    input_dtype=(Dtype.FP32, Dtype.BF16),
)
_CPU = _Defaults(
    batch={Phase.PREFILL: (1,), Phase.APPEND: (1,), Phase.DECODE: (1, 4)},
    kv_len={Phase.PREFILL: (256, 1024), Phase.APPEND: (256, 1024), Phase.DECODE: (1024, 4096)},
    q_len={Phase.PREFILL: None, Phase.APPEND: 64, Phase.DECODE: 1},
    input_dtype=(Dtype.FP32,),
)


def of_model(sizes: Sizes, geometry: Geometry, *, kind: str) -> list[Workload]:
    """The workloads of a model: of each of its kinds of layers, in turn.

    Args:
        sizes: As typed; heads, head dims and masks that are given stand for all layers.
        geometry: The model's, with at least one kind of layers. Layers that see all keys have no
            decode where they are an encoder's.
        kind: As for ``expand``.

    Raises:
        InputError: As for ``expand``.
    """
    lines = []
    for layers in geometry.layers:
        found = layer_workloads(sizes, geometry, layers, kind=kind)
        lines.append(found)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*lines))
    return list(dict.fromkeys(workload for workload in turns if workload is not None))


def layer_workloads(
    sizes: Sizes, geometry: Geometry, layers: Layers, *, kind: str
) -> list[Workload]:
    """The workloads of one kind of a model's layers; the arguments are those of ``of_model``."""
    phases = sizes.phase
    if layers.mask is Mask.FULL:
        if phases and Phase.PREFILL not in read(sizes).phase:
            return []
        phases = [Phase.PREFILL]
    of_layers = replace(
        sizes,
        phase=phases,
        heads=sizes.heads or [f"{layers.q_heads}/{layers.kv_heads}"],
        head_dim=sizes.head_dim or [f"{layers.head_dim}/{layers.head_dim_v}"],
        mask=sizes.mask or [layers.mask],
        context=layers.context or geometry.context,
    )
    return [
        replace(
            workload,
            # a window that reaches over all keys is none
            window=layers.window if (layers.window or sys.maxsize) < workload.kv_len else None,
            soft_cap=None if layers.part else geometry.soft_cap,
        )
        for workload in expand(of_layers, kind=kind)
    ]


def expand(sizes: Sizes, *, kind: str) -> list[Workload]:
    """Every combination of the sizes, ordered so that a bit of everything comes first.

    Args:
        sizes: As typed; what is left empty takes the defaults of the device's kind.
        kind: ``cuda``, ``hip`` or ``cpu``.

    Raises:
        InputError: A value is none of its option, or no phase asked for can have a q_len.
    """
    defaults = (_CPU if kind == "cpu" else _GPU).within(sizes.context or sys.maxsize)
    values = read(sizes)
    phases = _phases(values)
    q_lens: dict[Phase, list[int | None]] = {
        phase: [q_len for q_len in values.q_len if _phase_of(q_len, phases) is phase]
        or [defaults.q_len[phase]]
        for phase in phases
    }
    groups = [
        list(_combine(phase, dtype, q_lens[phase], values, defaults))
        for phase in phases
        for dtype in values.input_dtype or defaults.input_dtype
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return list(dict.fromkeys(workload for workload in turns if workload is not None))


def asked(sizes: Sizes, profile: Profile) -> list[Workload]:
    """The profile's workloads that fit the sizes; where none does, workloads of these sizes.

    What the sizes leave open then is as in the profile's workloads of that phase, in the
    combinations that these have, or the default of its device.

    Raises:
        InputError: A value is none of its option.
    """
    known = list(dict.fromkeys(row.workload for row in profile.measurements))
    if found := _matching(sizes, known):
        return found
    like = replace(
        sizes,
        heads=sizes.heads or [f"{w.q_heads}/{w.kv_heads}" for w in known],
        head_dim=sizes.head_dim or [f"{w.head_dim}/{w.head_dim_v}" for w in known],
        mask=sizes.mask or [w.mask for w in known],
        input_dtype=sizes.input_dtype or [w.input_dtype for w in known],
    )
    every = expand(like, kind=profile.environment.device.kind)
    seen = {phase: _left_open(sizes, known, phase) for phase in Phase}
    return [w for w in every if not known or _open_of(sizes, w) in seen[w.phase]]


def _left_open(sizes: Sizes, known: list[Workload], phase: Phase) -> set[tuple[object, ...]]:
    """What the sizes leave open, as the workloads of a phase have it that are most like them."""
    of_phase = [w for w in known if w.phase is phase] or known
    shapes = replace(sizes, phase=None, batch=None, q_len=None, kv_len=None)
    return {_open_of(sizes, w) for w in _matching(shapes, of_phase) or of_phase}


def _open_of(sizes: Sizes, w: Workload) -> tuple[object, ...]:
    """The values of a workload that the sizes leave open, but for lengths, batch and output."""
    return (
        None if sizes.heads else (w.q_heads, w.kv_heads),
        None if sizes.head_dim else (w.head_dim, w.head_dim_v),
        None if sizes.mask else w.mask,
        None if sizes.input_dtype else w.input_dtype,
    )


def _matching(sizes: Sizes, workloads: Iterable[Workload]) -> list[Workload]:
    """Those of the workloads that have one of the given values of every size given."""
    given = read(sizes)

    def fits(w: Workload) -> bool:
        pairs: list[tuple[Sequence[object], object]] = [
            (given.phase, w.phase),
            (given.batch, w.batch),
            (given.q_len, w.q_len),
            (given.kv_len, w.kv_len),
            (given.heads, (w.q_heads, w.kv_heads)),
            (given.head_dim, (w.head_dim, w.head_dim_v)),
            (given.mask, w.mask),
            (given.input_dtype, w.input_dtype),
            ([dtype or w.input_dtype for dtype in given.out_dtype], w.out_dtype),
        ]
        return all(not wanted or value in wanted for wanted, value in pairs)

    return [workload for workload in workloads if fits(workload)]


def _combine(
    phase: Phase,
    input_dtype: Dtype,
    q_lens: Sequence[int | None],
    values: Values,
    defaults: _Defaults,
) -> Iterator[Workload]:
    """The workloads of one phase and input type; a q_len of None is the kv_len."""
    combinations = itertools.product(
        values.heads or [(32, 8)],
        values.head_dim or [(128, 128)],
        values.mask or [Mask.CAUSAL],
        values.out_dtype or [None],
        values.kv_len or defaults.kv_len[phase],
        values.batch or defaults.batch[phase],
        q_lens,
    )
    for (q_heads, kv_heads), (dim, dim_v), mask, out_dtype, kv_len, batch, q_len in combinations:
        yield Workload(
            phase=phase,
            batch=batch,
            q_len=kv_len if q_len is None else q_len,
            kv_len=kv_len,
            q_heads=q_heads,
            kv_heads=kv_heads,
            head_dim=dim,
            head_dim_v=dim_v,
            mask=mask,
            input_dtype=input_dtype,
            out_dtype=out_dtype or input_dtype,
        )


def _phases(values: Values) -> list[Phase]:
    """The phases asked for; where only q_len was given, those that have such a q_len."""
    if not values.phase and not values.q_len:
        return [Phase.PREFILL, Phase.DECODE]
    phases = values.phase or [
        Phase.DECODE if q_len <= MAX_DECODE_Q_LEN else Phase.APPEND for q_len in values.q_len
    ]
    for q_len in values.q_len:
        if _phase_of(q_len, phases) is None:
            raise InputError(
                f"--q-len {q_len} fits no phase asked for ({', '.join(phases)}).",
                f"decode for 1 to {MAX_DECODE_Q_LEN} new tokens, append for 2 or more; "
                "a prefill's q_len is its kv_len",
            )
    return list(dict.fromkeys(phases))


def _phase_of(q_len: int, phases: Sequence[Phase]) -> Phase | None:
    """The one of the phases that so many new tokens belong to."""
    if q_len <= MAX_DECODE_Q_LEN and Phase.DECODE in phases:
        return Phase.DECODE
    return Phase.APPEND if q_len > 1 and Phase.APPEND in phases else None


def tune_command(workload: Workload) -> str:
    """The command that measures one workload again.

    What no option gives, such as a window, takes a file: such a workload is written out for one. A
    mask of one's own is left out, for tune draws none.
    """
    workload = replace(workload, custom_mask=False)
    plain = replace(workload, window=None, soft_cap=None, sinks=False, layout=Layout.CONTIGUOUS,
                    page_size=None)  # fmt: skip
    if workload != plain:
        entry = json.dumps([asdict(workload)])
        return f"echo '{entry}' > workloads.json && autoprec tune --workloads workloads.json"
    dim = str(workload.head_dim)
    if workload.head_dim_v != workload.head_dim:
        dim += f"/{workload.head_dim_v}"
    q_len = "" if workload.phase is Phase.PREFILL else f" --q-len {workload.q_len}"
    return (
        f"autoprec tune --phase {workload.phase} --batch {workload.batch}{q_len} "
        f"--kv-len {workload.kv_len} --heads {workload.q_heads}/{workload.kv_heads} "
        f"--head-dim {dim} --mask {workload.mask} "
        f"--input-dtype {workload.input_dtype} --out-dtype {workload.out_dtype}"
    )
