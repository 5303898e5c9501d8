"""Short names for the workloads of one phase: what they share goes into the heading, once."""

from collections.abc import Sequence

from autoprec.types import Layout, Phase, Workload

_ALWAYS = ("batch", "kv_len", "dtype")  # named on every row, shared or not


def short(workloads: Sequence[Workload]) -> tuple[str, list[str]]:
    """The heading of workloads of one phase, and what tells each of them apart.

    Args:
        workloads: At least one, all of one phase.

    Returns:
        Such as ``decode q1 32/8 d128 causal`` and ``["b1 kv1024 fp32", "b16 kv8192 fp32"]``: the
        words of ``str(workload)``, in its order.
    """
    words = [_words(workload) for workload in workloads]
    shared = [
        name
        for name in words[0]
        if name not in _ALWAYS and len({its.get(name) for its in words}) == 1
    ]
    heading = [workloads[0].phase.value, *(words[0][name] for name in shared)]
    names = [
        " ".join(word for name, word in its.items() if word and name not in shared) for its in words
    ]
    return " ".join(word for word in heading if word), names


def distinct(workloads: Sequence[Workload]) -> list[str]:
    """What tells workloads apart that are shown by length: ``b1``, ``b16 32/32 full``.

    Args:
        workloads: At least one, all of one phase and of the same types.
    """
    words = [_words(workload) for workload in workloads]
    differing = [
        name
        for name in words[0]
        if name not in ("kv_len", "dtype")
        and (name == "batch" or len({its[name] for its in words}) > 1)
    ]
    return [" ".join(its[name] for name in differing if its[name]) for its in words]


def _words(it: Workload) -> dict[str, str]:
    dims = f"d{it.head_dim}" + (f"/{it.head_dim_v}" if it.head_dim_v != it.head_dim else "")
    dtype = it.input_dtype.value
    return {
        "batch": f"b{it.batch}",
        "q_len": "" if it.phase is Phase.PREFILL else f"q{it.q_len}",  # a prefill's is its kv_len
        "kv_len": f"kv{it.kv_len}",
        "heads": f"{it.q_heads}/{it.kv_heads}",
        "dims": dims,
        "mask": it.mask.value,
        "window": "" if it.window is None else f"w{it.window}",
        "soft_cap": "" if it.soft_cap is None else f"cap{it.soft_cap:g}",
        "sinks": "sinks" if it.sinks else "",
        "layout": _layout(it),
        "dtype": dtype if it.out_dtype == it.input_dtype else f"{dtype}>{it.out_dtype.value}",
    }


def _layout(it: Workload) -> str:
    if it.layout is Layout.CONTIGUOUS:
        return ""
    return "ragged" if it.layout is Layout.RAGGED else f"page{it.page_size}"
