"""A profile loaded for this machine: what user code calls."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from autoprec.budget import Budget
from autoprec.errors import InputError
from autoprec.kernels.interface import DTYPES
from autoprec.plan import outputs
from autoprec.plan.calls import Calls
from autoprec.plan.decide import Decider
from autoprec.plan.explain import explain
from autoprec.plan.guard import Mode, told, told_of_caches
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.new_cache import new_kv_cache
from autoprec.plan.prepare import prepare_kv
from autoprec.plan.prepared import PreparedKV
from autoprec.plan.request import Request
from autoprec.plan.run import Runner
from autoprec.plan.stats import Stats
from autoprec.probe import device as devices
from autoprec.types import CAPTURED, Choice, Layout, Mask, Phase, Profile, Storage, Workload


class Plan(Calls):
    """What a profile says this machine should use, to be called.

    In every method q is ``[batch, q_heads, q_len, head_dim]``, k ``[batch, kv_heads, kv_len,
    head_dim]`` and v ``[batch, kv_heads, kv_len, head_dim_v]``, with any strides, in fp32, bf16 or
    fp16; ``layout="bshd"`` puts tokens before heads in all of them and in the output. Work is
    queued on the current stream of q's device. Threads may share a plan. What ``prepare_kv`` made
    of k and v may be given in place of k, with v left out, and so may a KVCache; ``layout`` is then
    that of q. Queries on a cache are the last tokens of each request, which it holds already.

    Args:
        profile: What was measured.
        device: Where the plan is for; tensors may lie on other GPUs of the same model too.
        budget: The error accepted; None: the profile's, with the choices saved in it.
        layer: The model's layer that the plan is for, where the budget names layers.
        remarks: Sentences for ``explain`` to repeat.
        consistent: Whether a request's output must have the same bits alone and in any batch, in
            each phase. Path and configuration then depend on heads, head dims and types alone.
        guard: See the property.

    Raises:
        BudgetError: No path keeps to the budget on any workload measured.
        InputError: Nothing was measured, or there is no such guard.
    """

    def __init__(
        self,
        profile: Profile,
        device: torch.device,
        *,
        budget: Budget | None = None,
        layer: int | None = None,
        remarks: Sequence[str] = (),
        consistent: bool = False,
        guard: str = "off",
    ) -> None:
        """Take the choices of a profile, or make them again."""
        self.consistent = consistent
        self._profile = profile
        self._device = device
        self._remarks = tuple(remarks)
        self._decider = Decider.of(profile, budget, layer)
        self._runner = Runner(self._decider, device, consistent=consistent)
        self.guard = guard

    def __repr__(self) -> str:
        """Such as ``<Plan for cpu: machine.json, made 2026-11-25; rel_l2<=0.01; 4 workloads>``."""
        origin = self._remarks[0] if self._remarks else f"a profile made {self._profile.created_at}"
        count = len(self._decider.choices)
        workloads = f"{count} workload{'s' * (count != 1)}"
        return f"<Plan for {self._device}: {origin}; {self.budget}; {workloads}>"

    @property
    def profile(self) -> Profile:
        """The profile, as it was saved."""
        return self._profile

    @property
    def budget(self) -> Budget:
        """The budget that the choices keep to."""
        return self._decider.budget

    @property
    def device(self) -> torch.device:
        """The device the plan is for."""
        return self._device

    @property
    def guard(self) -> str:
        """What is done about inputs that are harder than those measured; may be set at any time.

        ``off``: nothing. ``sample``: one call in ``guard_every`` is compared with exact attention,
        on a few rows, and ``stats`` has the worst errors. ``always``: a call of a path with fp16's
        range that loses accuracy to it is computed again by the next path that has fp32's; the
        device decides that, so that the call does not wait and may be captured in a graph.

        Calls on a KVCache are neither compared nor computed again: under ``always`` they take paths
        with fp32's range alone, and a cache whose tokens were brought into fp16's is refused. A
        consistent plan has no ``always``: one request's loss would change all of a batch.
        """
        return self._runner.guard.value

    @guard.setter
    def guard(self, mode: str) -> None:
        asked = Mode.of(mode)
        if asked is Mode.ALWAYS and self.consistent:
            raise InputError(
                "guard is always and the plan is consistent, but whether a call is computed again "
                "depends on all requests of its batch.",
                'guard="sample", or a plan that is not consistent',
            )
        self._runner.guard = asked

    @property
    def guard_every(self) -> int:
        """Calls of which ``sample`` checks one."""
        return self._runner.guard_every

    @guard_every.setter
    def guard_every(self, calls: int) -> None:
        if not isinstance(calls, int) or isinstance(calls, bool) or calls < 1:
            raise InputError(f"guard_every must be a whole number above zero, got {calls!r}.")
        self._runner.guard_every = calls

    @property
    def choices(self) -> list[Choice]:
        """What each workload measured uses."""
        return list(self._decider.choices)

    @property
    def runner(self) -> Runner:
        """What runs its calls: for autoprec's faces for other libraries' callers."""
        return self._runner

    def for_layer(self, layer: int) -> "Plan":
        """The plan for a model's layer, which counts its own calls; this one where it is the same.

        It is another where the budget has clauses for the layer, or the profile its own tensors.

        Raises:
            BudgetError: No path keeps to the budget there on any workload measured.
        """
        own = f"{CAPTURED}/{layer}"
        captured = any(own in row.errors for row in self._profile.measurements)
        clauses = any(self.budget.of(phase, layer) != self.budget.of(phase) for phase in Phase)
        if not captured and not clauses:
            return self
        plan = Plan(
            self._profile, self._device, budget=self.budget, layer=layer, remarks=self._remarks,
            consistent=self.consistent, guard=self.guard,
        )  # fmt: skip
        plan.guard_every = self.guard_every
        return plan

    def prepare_kv(
        self,
        k: Tensor,
        v: Tensor,
        *,
        q_len: int,
        q_heads: int | None = None,
        causal: bool = True,
        out_dtype: torch.dtype | str | None = None,
        layout: str = "bhsd",
    ) -> PreparedKV:
        """Bring k and v into the form that calls on them read, once for many calls.

        What runs is decided here, as ``attention`` decides it for q_len queries; later calls keep
        to it, whatever their q_len, heads and mask. Where its kernel reads k and v as they are,
        they are held, and later calls are what they are without.

        Where it does not, only what was made of them is held, not k and v, so that both need not
        stay in memory: what is written to them later is not seen, and ``decode``, whose kernels
        read k and v, takes them as tensors only. Work is queued on the current stream of k's
        device: calls on other streams must wait for it.

        Args:
            q_len: Queries of the calls to come.
            q_heads: Their heads; None: as many as k has.
            causal: Whether they are causal.
            out_dtype: Of their outputs; None: that of k.
            layout: Of k and v.

        Raises:
            AutoprecError: As ``attention`` does.
        """
        request = Request(causal, out_dtype, False, layout)
        in_words = partial(explain, budget=self.budget, measurements=self._profile.measurements,
                           remarks=self._remarks)  # fmt: skip
        return prepare_kv(self._runner, request, k, v, q_len, q_heads, in_words)

    def new_kv_cache(
        self,
        *,
        batch: int,
        capacity: int,
        q_heads: int,
        kv_heads: int,
        head_dim: int,
        head_dim_v: int | None = None,
        dtype: torch.dtype | str = torch.float32,
        page_size: int | None = None,
        page_table: Tensor | None = None,
        pages: int | None = None,
        storage: Storage | str | None = None,
        device: torch.device | str | None = None,
    ) -> KVCache:
        """Memory for keys and values of a batch of requests, in the form that serves all phases.

        The form is chosen for prefill, append and decode jointly, from what the plan chose for
        each; ``reason`` of the cache says what each would have taken alone.

        Args:
            capacity: Tokens that a request may have.
            head_dim_v: None: as head_dim.
            dtype: Of the queries and of the tokens that come in.
            page_size: Tokens of a page; None: every request has a row of its own.
            page_table: int32 ``[batch, pages of a request]``, which the caller may write at any
                time; a page that new tokens come to is for one request alone. None: each request
                has pages of its own.
            pages: Pages there are; None: as many as all requests at capacity need.
            storage: The form, where it is not to be chosen: fp32, bf16, fp16 or fp16x2.
            device: None: the plan's.

        Raises:
            InputError: An argument does not fit, or there is no such device.
            MachineError: The device is another model than the plan's.
            UnsupportedError: There is no Triton here, nothing near was measured, or no kernel reads
                the form asked for.
            BudgetError: For no phase does a path keep to the budget.
        """
        place = self._device if device is None else devices.resolve(str(device))
        own = DTYPES[outputs.output_dtype(dtype, None, torch.float32, name="dtype")]
        full = Workload(
            phase=Phase.PREFILL, batch=batch, q_len=capacity, kv_len=capacity, q_heads=q_heads,
            kv_heads=kv_heads, head_dim=head_dim,
            head_dim_v=head_dim if head_dim_v is None else head_dim_v, mask=Mask.CAUSAL,
            input_dtype=own, out_dtype=own, page_size=page_size,
            layout=Layout.CONTIGUOUS if page_size is None else Layout.PAGED,
        )  # fmt: skip
        return new_kv_cache(self._runner, full, storage, place, page_table, pages)

    def stats(self) -> Stats:
        """Calls by path, what fp16's range has cost since loading, and what guards have seen.

        ``range`` counts tiles (up to some 128 tokens of a head, in a call or a ``prepare_kv``) that
        lost accuracy to that range: their values lie so far apart that fp16 parts cannot hold the
        small ones as exactly as the path does otherwise, or at all. Where it is 0, no call lost
        anything in this way.

        The counts of a device are read from it: this waits for all work queued there, and calls
        never do.
        """
        return self._runner.counts.read()

    def explain(
        self,
        q: Tensor,
        k: Tensor | PreparedKV | KVCache,
        v: Tensor | None = None,
        *,
        causal: bool = True,
        out_dtype: torch.dtype | str | None = None,
        return_lse: bool = False,
        layout: str = "bhsd",
        phase: Phase | str | None = None,
        accuracy: str | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> str:
        """What would run for these tensors and why, as text; nothing runs.

        Args:
            phase: Of the method to be called; None: ``attention``.
            accuracy: As in the call, like what follows.

        Raises:
            AutoprecError: As the call would.
        """
        if phase is not None and phase not in list(Phase):
            raise InputError(f"phase must be one of {', '.join(Phase)}, got {phase!r}.")
        named = None if phase is None else Phase(phase)
        request = Request(
            causal, out_dtype, return_lse, layout, named,
            accuracy, window, soft_cap, sinks, attn_mask,
        )  # fmt: skip
        rows = self._profile.measurements
        if isinstance(k, KVCache):
            decision = self._runner.cached.decision(request, q, k)
            guard = told_of_caches(self._runner.guard)
            text = explain(decision, self.budget, rows, self._remarks, guard)
            return f"{text}\ncache: {k.storage}; {k.reason}"
        resolved = self._runner.resolve(request, q, k, v)
        if resolved.decision is None:
            return "nothing to compute: there is no query, or no key to see"
        guard = told(self._runner.guard, self.guard_every, resolved.safe)
        return explain(resolved.decision, self.budget, rows, self._remarks, guard)
