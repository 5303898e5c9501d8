"""A profile loaded for this machine: what user code calls."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from autoprec.budget import Budget
from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.interface import DTYPES
from autoprec.plan import arguments
from autoprec.plan.broadcast import NAMES, four_dimensional, mask_of
from autoprec.plan.decide import Decider
from autoprec.plan.explain import explain
from autoprec.plan.guard import Mode, told, told_of_caches
from autoprec.plan.how import How
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.new_cache import allocate
from autoprec.plan.prepare import prepare_kv
from autoprec.plan.prepared import PreparedKV
from autoprec.plan.request import Request
from autoprec.plan.run import Result, Runner
from autoprec.plan.stats import Stats
from autoprec.plan.storage import storage_of
from autoprec.types import CAPTURED, Choice, Layout, Mask, Phase, Profile, Storage, Workload

_PLAIN = How()


class Plan:
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

    def attention(
        self,
        q: Tensor,
        k: Tensor | PreparedKV | KVCache,
        v: Tensor | None = None,
        *,
        causal: bool,
        sm_scale: float | None = None,
        out: Tensor | None = None,
        out_dtype: torch.dtype | str | None = None,
        return_lse: bool = False,
        layout: str = "bhsd",
        accuracy: str | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
        attn_mask: Tensor | None = None,
        lse_out: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> Result:
        """Attention, for the phase that the lengths say.

        One query, or up to 16 that are fewer than the keys, is a decode; as many queries as keys,
        or more, are a prefill; what is between, an append.

        Args:
            causal: Whether query i sees keys 0 to i + kv_len - q_len only, so that the last query
                sees every key; else all queries do.
            sm_scale: Factor on the logits; None: 1/sqrt(head_dim).
            out: Where to write; None: new memory.
            out_dtype: Such as ``torch.float32`` or ``"fp32"``; None: that of out, else of q.
            return_lse: Whether to return the LSE as well.
            layout: ``bhsd`` or ``bshd``.
            accuracy: Of a KVCache of two planes what is read: ``full``, both, or ``hi``, half the
                bytes and fp16's accuracy; None: what the budget asks for. A cache of another form
                has one accuracy.
            window: Keys that a query sees at most, its own included, up to the one its position
                among the keys has (that of the last query is the last); None: all.
            soft_cap: Logits s become soft_cap * tanh(s / soft_cap).
            sinks: fp32 ``[q_heads]``, logits that join the sum of every query of their head and
                have no value; the LSE counts them.
            attn_mask: What can be broadcast to ``[batch, q_heads, q_len, kv_len]``, whatever the
                layout: bool, where False hides a key from a query, or a float type, which joins
                the logits, and where -inf hides. It holds beside causal and window. Not on a
                KVCache.
            lse_out: Where to write the LSE, fp32 ``[batch, q_heads, q_len]``; it is then returned.
            workspace: Contiguous memory of any type for partial results; None: the plan's, by
                thread and stream, or the KVCache's. Once that is there, a decode with out (and
                lse_out) allocates nothing.

        Returns:
            The output ``[batch, q_heads, q_len, head_dim_v]``; with return_lse also log2 of the
            sum of exp of the scaled logits, ``[batch, q_heads, q_len]`` in fp32, whatever the
            layout. A query that sees no key gives O = 0 and LSE = -inf.

        Raises:
            InputError: An argument does not fit; the sentence names it and its shape.
            UnsupportedError: No kernel does this, or nothing near was measured.
            BudgetError: On the nearest workload measured, no path keeps to the budget.
            MachineError: The tensors are on another model of GPU.
        """
        wanted = return_lse or lse_out is not None
        request = Request(causal, out_dtype, wanted, layout)
        how = How(accuracy, window, soft_cap, sinks, attn_mask)
        return self._runner.attend(request, q, k, v, sm_scale, out, how, lse_out, workspace)

    def prefill(
        self,
        q: Tensor,
        k: Tensor | PreparedKV | KVCache,
        v: Tensor | None = None,
        *,
        causal: bool,
        sm_scale: float | None = None,
        out: Tensor | None = None,
        out_dtype: torch.dtype | str | None = None,
        return_lse: bool = False,
        layout: str = "bhsd",
        accuracy: str | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
        attn_mask: Tensor | None = None,
        lse_out: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> Result:
        """Attention of a prompt; a later chunk of it counts as append. See ``attention``."""
        request = Request(
            causal, out_dtype, return_lse or lse_out is not None, layout, Phase.PREFILL
        )
        how = How(accuracy, window, soft_cap, sinks, attn_mask)
        return self._runner.attend(request, q, k, v, sm_scale, out, how, lse_out, workspace)

    def append(
        self,
        q: Tensor,
        k: Tensor | PreparedKV | KVCache,
        v: Tensor | None = None,
        *,
        causal: bool,
        sm_scale: float | None = None,
        out: Tensor | None = None,
        out_dtype: torch.dtype | str | None = None,
        return_lse: bool = False,
        layout: str = "bhsd",
        accuracy: str | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
        attn_mask: Tensor | None = None,
        lse_out: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> Result:
        """Attention of new tokens over a cache that holds them too. See ``attention``."""
        request = Request(
            causal, out_dtype, return_lse or lse_out is not None, layout, Phase.APPEND
        )
        how = How(accuracy, window, soft_cap, sinks, attn_mask)
        return self._runner.attend(request, q, k, v, sm_scale, out, how, lse_out, workspace)

    def decode(
        self,
        q: Tensor,
        k: Tensor | PreparedKV | KVCache,
        v: Tensor | None = None,
        *,
        causal: bool,
        sm_scale: float | None = None,
        out: Tensor | None = None,
        out_dtype: torch.dtype | str | None = None,
        return_lse: bool = False,
        layout: str = "bhsd",
        accuracy: str | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
        attn_mask: Tensor | None = None,
        lse_out: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> Result:
        """Attention of one token, or a few, over a cache that holds them. See ``attention``."""
        request = Request(
            causal, out_dtype, return_lse or lse_out is not None, layout, Phase.DECODE
        )
        how = How(accuracy, window, soft_cap, sinks, attn_mask)
        return self._runner.attend(request, q, k, v, sm_scale, out, how, lse_out, workspace)

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
        told = partial(explain, budget=self.budget, measurements=self._profile.measurements,
                       remarks=self._remarks)  # fmt: skip
        return prepare_kv(self._runner, request, k, v, q_len, q_heads, told)

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
        device: torch.device | None = None,
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
                time; None: each request has pages of its own.
            pages: Pages there are; None: as many as all requests at capacity need.
            storage: The form, where it is not to be chosen: fp32, bf16, fp16 or fp16x2.
            device: None: the plan's.

        Raises:
            InputError: An argument does not fit.
            UnsupportedError: There is no Triton here, or nothing near was measured.
            BudgetError: For no phase does a path keep to the budget.
        """
        v_dim = head_dim if head_dim_v is None else head_dim_v
        place = self._device if device is None else device
        own = DTYPES[arguments.output_dtype(dtype, None, torch.float32)]
        workloads = {
            phase: Workload(
                phase=phase, batch=batch, q_len=1 if phase is Phase.DECODE else capacity,
                kv_len=capacity, q_heads=q_heads, kv_heads=kv_heads, head_dim=head_dim,
                head_dim_v=v_dim, mask=Mask.CAUSAL, input_dtype=own, out_dtype=own,
                layout=Layout.CONTIGUOUS if page_size is None else Layout.PAGED,
                page_size=page_size,
            )
            for phase in (Phase.PREFILL, Phase.DECODE)
        }  # fmt: skip
        guarded = self._runner.guard is Mode.ALWAYS
        joint = storage_of(self._decider, workloads, storage, guarded=guarded)
        return allocate(
            joint, batch=batch, capacity=capacity, kv_heads=kv_heads, head_dim=head_dim,
            head_dim_v=v_dim, page_size=page_size, page_table=page_table, pages=pages,
            device=place, lost=self._runner.counts.lost,
        )  # fmt: skip

    def stats(self) -> Stats:
        """Calls by path, what fp16's range has cost since loading, and what guards have seen.

        ``range`` counts tiles that lost accuracy to that range: those (up to some 128 tokens of a
        head, in a call or a ``prepare_kv``) where
        values lie so far apart that its fp16 parts cannot hold the small ones as exactly as the
        path does otherwise, or at all. 0 says that no call lost anything in this way.

        The counts of a device are read from it: this waits for all work queued there, and calls
        never do.
        """
        return self._runner.counts.read()

    def scaled_dot_product_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """``torch.nn.functional.scaled_dot_product_attention``: its arguments and its meaning.

        Args:
            query: ``[..., q_len, head_dim]``.
            key: ``[..., kv_len, head_dim]``.
            value: ``[..., kv_len, head_dim_v]``; what stands before is broadcast.
            attn_mask: What can be broadcast to the logits ``[..., q_len, kv_len]``: bool, where
                False hides a key from a query, or fp32 or query's type, which joins the logits. A
                query that sees no key gives 0. None where is_causal is True.
            dropout_p: Only 0.
            is_causal: Whether query i sees keys 0 to i only: aligned upper-left.
            scale: Factor on the logits; None: 1/sqrt(head_dim).
            enable_gqa: Whether the heads of key and value may divide those of query.

        Returns:
            ``[..., q_len, head_dim_v]`` in query's type.

        Raises:
            AutoprecError: As ``attention`` does.
        """
        if attn_mask is not None and is_causal:
            raise InputError("attn_mask is given, and is_causal is True.", "one of the two")
        if dropout_p != 0.0:
            raise UnsupportedError(f"dropout_p is {dropout_p}, and no kernel here drops anything.")
        query, key, value, leading = four_dimensional(query, key, value, enable_gqa=enable_gqa)
        q_len = query.shape[2]
        if is_causal and key.shape[2] > q_len:  # no query sees those beyond
            key, value = key[:, :, :q_len], value[:, :, :q_len]
        how = _PLAIN
        if attn_mask is not None:
            how = How(mask=mask_of(attn_mask, leading, query, key))
        request = Request(is_causal, upper_left=True, names=NAMES)
        out = self._runner.attend(request, query, key, value, scale, how=how)
        assert isinstance(out, Tensor)  # no LSE was asked for
        return out if len(leading) == 2 else out.view(*leading, *out.shape[2:])

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
        request = Request(causal, out_dtype, return_lse, layout, named)
        how = How(accuracy, window, soft_cap, sinks, attn_mask)
        rows = self._profile.measurements
        if isinstance(k, KVCache):
            decision = self._runner.cached.decision(request, q, k, how)
            guard = told_of_caches(self._runner.guard)
            text = explain(decision, self.budget, rows, self._remarks, guard)
            return f"{text}\ncache: {k.storage}; {k.reason}"
        prepared = self._runner.prepare(request, q, k, v, None, how=how)
        if prepared.decision is None:
            return "nothing to compute: there is no query, or no key to see"
        guard = told(self._runner.guard, self.guard_every, prepared.safe)
        return explain(prepared.decision, self.budget, rows, self._remarks, guard)
