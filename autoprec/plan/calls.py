"""The calls of a plan: attention by its phases, and by torch's name."""

import torch
from torch import Tensor

from autoprec.errors import InputError, UnsupportedError
from autoprec.plan.broadcast import NAMES, four_dimensional, mask_of
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.prepared import PreparedKV
from autoprec.plan.request import Request
from autoprec.plan.run import Result, Runner
from autoprec.types import Phase


class Calls:
    """What ``Plan`` computes; its tensors are described there."""

    _runner: Runner

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
        request = Request(
            causal, out_dtype, return_lse or lse_out is not None, layout, None,
            accuracy, window, soft_cap, sinks, attn_mask,
        )  # fmt: skip
        return self._runner.attend(request, q, k, v, sm_scale, out, lse_out, workspace)

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
            causal, out_dtype, return_lse or lse_out is not None, layout, Phase.PREFILL,
            accuracy, window, soft_cap, sinks, attn_mask,
        )  # fmt: skip
        return self._runner.attend(request, q, k, v, sm_scale, out, lse_out, workspace)

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
            causal, out_dtype, return_lse or lse_out is not None, layout, Phase.APPEND,
            accuracy, window, soft_cap, sinks, attn_mask,
        )  # fmt: skip
        return self._runner.attend(request, q, k, v, sm_scale, out, lse_out, workspace)

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
            causal, out_dtype, return_lse or lse_out is not None, layout, Phase.DECODE,
            accuracy, window, soft_cap, sinks, attn_mask,
        )  # fmt: skip
        return self._runner.attend(request, q, k, v, sm_scale, out, lse_out, workspace)

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
        mask = None if attn_mask is None else mask_of(attn_mask, leading, query, key)
        request = Request(is_causal, upper_left=True, names=NAMES, mask=mask)
        out = self._runner.attend(request, query, key, value, scale)
        assert isinstance(out, Tensor)  # no LSE was asked for
        return out if len(leading) == 2 else out.view(*leading, *out.shape[2:])
