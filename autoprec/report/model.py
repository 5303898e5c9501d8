"""What the choices mean for a model: the time its attention takes, and the cache it keeps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autoprec.model_layers import Geometry, Layers
from autoprec.report.document import Align, Column, Row, Section
from autoprec.report.numbers import MISSING, counted, listed, significant, times
from autoprec.report.outcomes import Outcome, outcomes
from autoprec.types import Mask, Measurement, Phase, Profile, Workload

_KIB = 1024.0

_NOTES = (
    "attention only: what else a model computes is not in these times",
    "baseline: for each kind of layer the fastest that keeps to the budget too",
)


@dataclass(frozen=True)
class _Cost:
    """What one call of a model's attention takes, over all of its layers.

    Attributes:
        chosen_ms: With what was chosen.
        baseline_ms: With baselines; None where one of its layers has none within the budget.
        paths: What was chosen, and for how many layers.
        baselines: What those are.
        plain: Whether layers stand here as they were measured without their window or soft cap.
    """

    workload: Workload
    chosen_ms: float
    baseline_ms: float | None
    paths: tuple[str, ...]
    baselines: tuple[str, ...]
    plain: bool


def sections(model: Geometry, profile: Profile) -> Iterator[Section]:
    """A section on a model; none where nothing of it was decided.

    A decode gives a token to each of its requests, so that its time is that of a token; a prefill's
    is that of its prompts.

    Args:
        model: Its layers; where their number is not known, the section is about one of each kind.
        profile: With workloads of the model's layers.
    """
    found = {outcome.workload: outcome for outcome in outcomes(profile)}
    costs = [
        (part, cost)
        for part in dict.fromkeys(layers.part for layers in model.layers)
        for cost in _costs([it for it in model.layers if it.part == part], model, found)
    ]
    if not costs:
        return
    number = sum(layers.count or 1 for layers in model.layers if not layers.part)
    heading = f"{model.name}, attention of {counted(number, 'layer')}"
    yield Section(
        heading=heading if number else f"{model.name}, attention of its encoder",
        columns=(
            Column("what"),
            Column("path"),
            Column("ms", Align.POINT),
            Column("baseline ms", Align.POINT),
            Column("speedup", Align.RIGHT),
            Column("over", rank=3),
        ),
        rows=tuple(_row(part, cost, model) for part, cost in costs),
        notes=(*_NOTES, *_limits(model, costs), *_cache(model, profile)),
    )


def _limits(model: Geometry, costs: Sequence[tuple[str, _Cost]]) -> Iterator[str]:
    """What the figures are not."""
    if any(layers.count is None for layers in model.layers):
        yield "the number of layers is not known: figures are for one layer of each kind"
    if any(cost.plain for _, cost in costs):
        yield "layers with a window or a soft cap stand here as they were measured: without"


def _costs(
    kinds: Sequence[Layers], model: Geometry, found: dict[Workload, Outcome]
) -> Iterator[_Cost]:
    """Every setting in which all kinds of layers of a part were decided."""
    first, *others = kinds
    for workload in found:
        if workload != _measured(workload, first, model, found):
            continue
        rows = [_measured(workload, layers, model, found) for layers in (first, *others)]
        its = [found[it] for it in rows if it is not None]
        if len(its) == len(kinds) and all(outcome.chosen for outcome in its):
            plain = any(_of(workload, layers, model) not in found for layers in kinds)
            yield _cost(workload, kinds, its, plain=plain)


def _of(workload: Workload, layers: Layers, model: Geometry) -> Workload:
    """A workload as other layers of the model have it."""
    window = layers.window if layers.window and layers.window < workload.kv_len else None
    return replace(
        workload,
        q_heads=layers.q_heads,
        kv_heads=layers.kv_heads,
        head_dim=layers.head_dim,
        head_dim_v=layers.head_dim_v,
        mask=layers.mask,
        window=window,
        soft_cap=None if layers.part else model.soft_cap,
    )


def _plain(workload: Workload) -> Workload:
    return replace(workload, window=None, soft_cap=None)


def _measured(
    workload: Workload, layers: Layers, model: Geometry, found: dict[Workload, Outcome]
) -> Workload | None:
    """The workload as it was measured: with window and cap, or else without."""
    wanted = _of(workload, layers, model)
    return next((it for it in (wanted, _plain(wanted)) if it in found), None)


def _cost(
    workload: Workload, kinds: Sequence[Layers], its: Sequence[Outcome], *, plain: bool
) -> _Cost:
    counts = [layers.count or 1 for layers in kinds]
    chosen = [it.chosen.measurement for it in its if it.chosen]
    baselines = [it.baseline if it.baseline_within else None for it in its]
    known = [it for it in baselines if it is not None]
    names: dict[str, int] = {}
    for measurement, count in zip(chosen, counts, strict=True):
        names[measurement.path] = names.get(measurement.path, 0) + count
    return _Cost(
        workload=workload,
        chosen_ms=_total(chosen, counts),
        baseline_ms=_total(known, counts) if len(known) == len(its) else None,
        paths=tuple(names if len(names) == 1 else (f"{it} x{n}" for it, n in names.items())),
        baselines=tuple(dict.fromkeys(it.path for it in known)),
        plain=plain,
    )


def _total(measurements: Sequence[Measurement], counts: Sequence[int]) -> float:
    return sum(it.median_ms * n for it, n in zip(measurements, counts, strict=True))


def _row(part: str, cost: _Cost, model: Geometry) -> Row:
    return Row((
        f"{part}: {_what(cost.workload)}" if part else _what(cost.workload),
        ", ".join(cost.paths),
        significant(cost.chosen_ms),
        significant(cost.baseline_ms),
        times(cost.baseline_ms / cost.chosen_ms if cost.baseline_ms else None),
        ", ".join(cost.baselines) or MISSING,
    ))  # fmt: skip


def _what(it: Workload) -> str:
    """One call, as a person would say it: ``a token of each of 16 requests, 8192 keys, bf16``."""
    dtype = it.input_dtype.value
    if it.out_dtype != it.input_dtype:
        dtype += f">{it.out_dtype}"
    requests = "" if it.batch == 1 else f" of each of {it.batch} requests"
    match it.phase:
        case Phase.DECODE:
            new = "a token" if it.q_len == 1 else f"{it.q_len} tokens"
            return f"{new}{requests}, {it.kv_len} keys, {dtype}"
        case Phase.APPEND:
            return f"{it.q_len} tokens{requests}, {it.kv_len} keys, {dtype}"
        case Phase.PREFILL:
            prompts = "a prompt" if it.batch == 1 else f"{it.batch} prompts"
            return f"{prompts} of {it.kv_len} tokens, {dtype}"


def _cache(model: Geometry, profile: Profile) -> Iterator[str]:
    """What a token adds to the cache, over all layers of the language model."""
    decoder = [it for it in model.layers if not it.part and it.mask is Mask.CAUSAL]
    numbers = sum((it.count or 1) * it.kv_heads * (it.head_dim + it.head_dim_v) for it in decoder)
    if not numbers:
        return
    dtypes = dict.fromkeys(row.workload.input_dtype for row in profile.measurements)
    sizes = [f"{significant(numbers * it.nbytes / _KIB)} KiB in {it}" for it in dtypes]
    yield f"cache: K and V of a token take {listed(sizes)}"
    if any(it.window for it in decoder):
        yield "cache: layers with a window need no more tokens than the window has"
    if model.latent is not None:
        latent = model.latent * sum(it.count or 1 for it in decoder)
        yield (
            "cache: that is with MLA's heads expanded; its latents take "
            f"{significant(latent * 2 / _KIB)} KiB a token in 16 bits"
        )
