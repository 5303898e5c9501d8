"""What every wrapper holds between ``plan`` and ``run``, and how its tensors become a call."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autoprec.errors import InputError, UnsupportedError
from autoprec.flashinfer.offered import check_backend, check_kv_layout, check_offered, scaled
from autoprec.flashinfer.planned import (
    Planned,
    Result,
    by_heads,
    check_tensors,
    fitting_sinks,
    scale_values,
)
from autoprec.flashinfer.precision import Chooser, Precision, chooser
from autoprec.flashinfer.table import Held
from autoprec.kernels.interface import Call
from autoprec.plan import arguments, checked, outputs
from autoprec.plan.decision import Decision
from autoprec.plan.workspaces import as_fp32


class Wrapper:
    """What FlashInfer's wrappers share."""

    def __init__(
        self,
        workspace: Tensor,
        kv_layout: str,
        use_cuda_graph: bool,
        backend: str,
        precision: Precision | None,
        refused: Mapping[str, Any],
        buffers: Mapping[str, Tensor | None],
    ) -> None:
        """Hold buffers; nothing is planned yet."""
        check_kv_layout(kv_layout)
        check_backend(backend)
        check_offered(refused)
        self._workspace = as_fp32(workspace, "the workspace buffer")
        self.device = self._workspace.device
        self._kv_layout = kv_layout
        self._use_cuda_graph = use_cuda_graph
        self._held = Held(self.device, use_cuda_graph, **buffers)
        self._precision = precision
        self._planned: Planned | None = None
        self._chooser: Chooser | None = None
        self._decision: tuple[Planned, bool, Decision] | None = None
        self._outgrown: list[Tensor] = []
        self._sized = False  # whether the workspace is known to suffice for the decision
        self._bound: dict[object, Any] = {}

    @property
    def is_cuda_graph_enabled(self) -> bool:
        """Whether buffers given at the start hold the page table, for CUDA graphs."""
        return self._use_cuda_graph

    def reset_workspace_buffer(
        self, float_workspace_buffer: Tensor, int_workspace_buffer: Tensor
    ) -> None:
        """Have partial results go elsewhere.

        Args:
            float_workspace_buffer: Of any type, on the device of the tensors.
            int_workspace_buffer: Not used.
        """
        self._workspace = as_fp32(float_workspace_buffer, "float_workspace_buffer")
        self._sized = False

    def end_forward(self) -> None:
        """Nothing; FlashInfer has it, deprecated, for ``begin_forward``."""

    def _mean(self, **meaning: Any) -> None:
        """Take what the deprecated ``forward`` is given, in place of what was planned."""
        if self._planned is not None:
            planned = self._planned.meaning(**{"causal": self._planned.causal, **meaning})
            if planned != self._planned:
                self._planned = planned

    def _plan(self, planned: Planned) -> None:
        """Take what was planned, and decide what runs."""
        if planned.kv_dtype != planned.q_dtype:
            raise UnsupportedError(
                f"keys and values in {planned.kv_dtype} for queries in {planned.q_dtype}: not "
                "offered by autoprec.flashinfer.",
                "one type for q, k and v",
            )
        self._planned = planned
        self._chooser = chooser(self._precision, self.device)
        self._decision = None
        if planned.batch and planned.rows:
            self._decide(planned, sinks=False)

    def _decide(self, planned: Planned, *, sinks: bool) -> tuple[Chooser, Decision]:
        assert self._chooser is not None  # it is planned
        last = self._decision
        if last is not None and last[0] is planned and last[1] == sinks:
            return self._chooser, last[2]
        decision = self._chooser.decide(
            planned.workload(sinks=sinks, steady=self._use_cuda_graph), self.device,
            steady=self._use_cuda_graph,
        )  # fmt: skip
        self._decision, self._sized = (planned, sinks, decision), False
        return self._chooser, decision

    def _run(
        self,
        planned: Planned | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        out: Tensor | None,
        lse: Tensor | None,
        return_lse: bool,
        q_scale: Any,
        k_scale: Any,
        v_scale: Any,
        sinks: Tensor | None,
    ) -> Result:
        """Attention of the planned requests; k and v are ``[rows, kv_heads, tokens, dim]``."""
        if planned is None:
            raise InputError("run was called before plan.", "wrapper.plan(...) first")
        check_tensors(planned, q, k, v)
        shape = (*q.shape[:2], planned.head_dim_v)
        read = (q, k, v, *planned.tensors)
        if sinks is not None:
            read += (arguments.dense("sinks", sinks),)
        out, lse = self._written(planned, shape, out, lse, read, return_lse=return_lse)
        if planned.rows:
            sm_scale = 1 / math.sqrt(planned.head_dim)
            if planned.sm_scale is not None:
                sm_scale = arguments.scale(planned.sm_scale)
            sm_scale = scaled(sm_scale, q_scale=q_scale, k_scale=k_scale)
            if sinks is not None:
                sinks = fitting_sinks(sinks, planned.q_heads, q.device)
            self._launch(planned, q, k, v, out, lse, sm_scale, sinks)
        scale_values(out, v_scale)
        return (out, lse) if lse is not None else out

    def _written(
        self,
        planned: Planned,
        shape: tuple[int, ...],
        out: Tensor | None,
        lse: Tensor | None,
        read: Sequence[Tensor],
        *,
        return_lse: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Output and LSE, those of the caller where they are given and can be written.

        Args:
            shape: That of the output.
            read: What the call reads, the queries first.
        """
        if out is None:
            out = torch.empty(shape, dtype=planned.out_dtype, device=read[0].device)
        else:
            outputs.check_out(out, shape, *read)
            if out.dtype != planned.out_dtype:
                raise InputError(f"out is {out.dtype}, and {planned.out_dtype} was planned.")
            outputs.check_memory("out", out, "the workspace buffer", (self._workspace,))
        if not return_lse:
            return out, None
        if lse is None:
            return out, torch.empty(shape[:2], dtype=torch.float32, device=read[0].device)
        outputs.check_lse_out(lse, shape[:2], out, *read, name="lse")
        outputs.check_memory("lse", lse, "the workspace buffer", (self._workspace,))
        return out, lse

    def _launch(
        self, planned: Planned, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor | None,
        sm_scale: float, sinks: Tensor | None,
    ) -> None:  # fmt: skip
        chosen, decision = self._decide(planned, sinks=sinks is not None)
        q_len, batch = planned.q_len, planned.batch
        call = Call(
            q=by_heads(q, batch, q_len), k=k, v=v, out=by_heads(out, batch, q_len),
            lse=None if lse is None else by_heads(lse, batch, q_len),
            diagonal=0 if planned.causal and planned.mask is None else None, mask=planned.mask,
            sm_scale=sm_scale, requests=planned.requests,
            window_left=planned.window_left, soft_cap=planned.soft_cap, sinks=sinks,
            workspace=self._workspace, lost=chosen.lost(decision, q.device),
        )  # fmt: skip
        if checked.enabled() and planned.requests is not None:
            checked.check_requests(planned.requests, k)
        if not self._sized:
            call = self._with_room(call, decision, planned)
            self._sized, self._bound = True, {}
        chosen.run(decision, call, self._bound)

    def _with_room(self, call: Call, decision: Decision, planned: Planned) -> Call:
        """The call with room for its partial results, which is kept for those that follow.

        Raises:
            InputError: They would be written over what the call reads.
        """
        elements = decision.kernel.workspace(call, decision.path, decision.config)
        if elements <= self._workspace.numel():
            sinks = () if call.sinks is None else (call.sinks,)
            read = (call.q, call.k, call.v, *planned.tensors, *sinks)
            if elements and outputs.meets(self._workspace, read, 4 * elements):
                raise InputError("the workspace buffer lies in the memory of an input.",
                                 "a workspace of its own memory")  # fmt: skip
            return call
        if self._use_cuda_graph:
            self._outgrown.append(self._workspace)  # graphs may still write there
        with torch.inference_mode(False):  # kept for calls that may come outside of that mode
            self._workspace = torch.empty(elements, dtype=torch.float32, device=self.device)
        return replace(call, workspace=self._workspace)
