"""Capturing: what attention is called with, by layer, into a file that is never too large."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

import autoprec
from autoprec.errors import InputError
from autoprec.kernels.reference import attention
from autoprec.plan.visible import Part, Unusable, part
from autoprec.probe.captured import Captured, read
from autoprec.probe.captured_file import Head


def exact(head: Head) -> Tensor:
    """Attention of a captured head, ``[group, q_len, head_dim]``."""
    diagonal = len(head.k) - head.q.shape[1] if head.causal else None
    out, _ = attention(
        head.q[None], head.k[None, None], head.v[None, None], diagonal=diagonal,
        sm_scale=head.sm_scale,
    )  # fmt: skip
    return out[0]


class Attention(nn.Module):
    """Four query heads on two of keys and values, each 8 wide."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.project = nn.Linear(32, 64)
        self.options = {"is_causal": True, "enable_gqa": True} | options
        self.outputs: list[Tensor] = []

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x).split((32, 16, 16), -1)
        q, k, v = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in (q, k, v))
        options = self.options if mask is None else self.options | {"is_causal": False}
        out = functional.scaled_dot_product_attention(q, k, v, mask, **options)
        self.outputs.append(out.detach())
        return out.transpose(1, 2).flatten(2)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Attention(), nn.Linear(32, 32), Attention(scale=0.7)).eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "captured.safetensors"


def outputs(model: nn.Module) -> list[Tensor]:
    return [out for it in model if isinstance(it, Attention) for out in it.outputs]  # type: ignore[attr-defined]


def computes(captured: Captured, expected: list[Tensor]) -> None:
    """Each captured head's attention is one that the model computed, up to fp32's rounding."""
    known = [out.unflatten(1, (-1, 2)).flatten(0, 1) for out in expected]
    for head in captured.heads:
        found = exact(head)
        assert any(
            bool((its - found).abs().amax((1, 2, 3)).min() <= 1e-5)
            for its in known
            if its.shape[1:] == found.shape
        )


@pytest.mark.parametrize("named", [True, False])
def test_every_layer_is_recorded(model: nn.Module, file: Path, named: bool) -> None:
    x = torch.randn(2, 20, 32)
    before = model(x)
    with autoprec.capture(model if named else None, file) as recording:
        assert torch.equal(model(x), before)
    assert len(recording.layers) == 2
    if named:
        assert recording.layers == ["0", "2"]
    captured = read(file)
    assert captured.layers == [0, 1]
    assert [head.heads for head in captured.heads] == [(4, 2)] * 4
    assert {head.sm_scale for head in captured.heads} == {8**-0.5, 0.7}
    assert all(head.causal for head in captured.heads)
    computes(captured, outputs(model))
    assert [it.name for it in file.parent.iterdir() if it.is_file()] == [file.name]


def test_queries_that_follow_keys(file: Path) -> None:
    """Torch's causal mask is upper-left: keys beyond the queries are seen by none."""
    q, k, v = torch.randn(1, 4, 3, 8), torch.randn(1, 4, 9, 8), torch.randn(1, 4, 9, 8)
    with autoprec.capture(None, file):
        outs = [
            functional.scaled_dot_product_attention(q, k, v, is_causal=True),
            functional.scaled_dot_product_attention(q, k, v),
            functional.scaled_dot_product_attention(q[0], k[0], v[0], scale=0.5),
        ]
    captured = read(file)
    assert sorted((len(head.k), head.causal) for head in captured.heads) == [
        *[(3, True)] * 4, *[(9, False)] * 8,
    ]  # fmt: skip
    known = [out.view(4, 1, 3, 8) for out in outs]
    for head in captured.heads:
        assert any((its - exact(head)).abs().amax((1, 2, 3)).min() <= 1e-5 for its in known)


def test_padding_is_left_out(model: nn.Module, file: Path) -> None:
    x = torch.randn(3, 20, 32)
    visible = torch.ones(3, 1, 20, 20, dtype=torch.bool).tril()
    visible[1, ..., :5] = False  # padded on the left
    visible[2, ..., 12:] = False  # and on the right, where queries see all that is real
    with torch.no_grad(), autoprec.capture(model, file, calls=20) as recording:
        for _ in range(8):
            model[0](x, visible)
    assert recording.left_out == {}
    lengths = {(head.q.shape[1], len(head.k)) for head in read(file).heads}
    assert lengths <= {(20, 20), (15, 15), (12, 12)}
    assert (15, 15) in lengths


MASKS = {
    "full": (
        torch.ones(1, 1, 6, 8, dtype=torch.bool),
        Part(torch.arange(6), torch.arange(8), False),
    ),
    "behind": (
        torch.ones(6, 8).tril().bool() & (torch.arange(8) < 4),
        Part(torch.arange(4), torch.arange(4), True),
    ),
    "added": (torch.zeros(6, 8), Part(torch.arange(6), torch.arange(8), False)),
    "causal": (
        torch.zeros(2, 1, 6, 8).masked_fill(~torch.ones(6, 8).tril(2).bool(), float("-inf")),
        Part(torch.arange(6), torch.arange(8), True),
    ),
    "smallest": (
        torch.zeros(2, 1, 1, 8).index_fill(3, torch.tensor([0, 1]), torch.finfo(torch.float32).min),
        Part(torch.arange(6), torch.arange(2, 8), False),
    ),
    "none": (
        torch.zeros(6, 8, dtype=torch.bool),
        Unusable("a mask that hides every key"),
    ),
    "window": (
        torch.ones(6, 8).tril(2).triu(0).bool(),
        Unusable("a mask that is neither causal nor one of padding"),
    ),
    "bias": (torch.randn(6, 8), Unusable("a bias that is added to the logits")),
    "heads": (
        torch.stack((torch.zeros(6, 8), torch.full((6, 8), float("-inf"))))[None],
        Unusable("a mask that is not the same for all heads"),
    ),
    "shape": (torch.zeros(5, 5, dtype=torch.bool), Unusable("a mask of the shape (5, 5)")),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_what_masks_leave(name: str) -> None:
    mask, expected = MASKS[name]
    found = part(mask, False, 1, 2, 6, 8)
    if isinstance(expected, Unusable):
        assert found == expected
    else:
        assert isinstance(found, Part)
        assert torch.equal(found.queries, expected.queries)
        assert torch.equal(found.keys, expected.keys)
        assert found.causal == expected.causal


def test_what_cannot_be_recorded_is_counted(model: nn.Module, file: Path) -> None:
    x = torch.randn(1, 20, 32)
    with autoprec.capture(model, file) as recording:
        model(x)
        model[0](x, torch.randn(20, 20))
        model[0](x * torch.nan)
        functional.scaled_dot_product_attention(*[torch.randn(4, 8).double()] * 3)
        functional.scaled_dot_product_attention(*[torch.randn(1, 2, 4, 8).double()] * 3)
    assert recording.left_out == {
        "a bias that is added to the logits": 1,
        "NaN or infinity in the tensors": 1,
        "tensors of fewer than 3 axes": 1,
        "tensors in torch.float64": 1,
    }
    assert recording.layers == ["0", "2"]


def test_the_file_stays_below_a_size(model: nn.Module, file: Path) -> None:
    torch.manual_seed(1)
    for limit, heads in ((1 << 30, 4 * 2 * 2), (100_000, 1), (20_000, 1)):
        with torch.no_grad(), autoprec.capture(model, file, max_bytes=limit) as recording:
            for _ in range(9):
                model(torch.randn(1, 200, 32))
        assert recording.nbytes <= limit
        assert file.stat().st_size <= limit + 5000
        captured = read(file)
        assert captured.layers == [0, 1]
        assert len(captured.heads) >= min(heads, 2)
        assert limit < 1 << 30 or len(captured.heads) == heads


def test_long_contexts_keep_their_first_keys(file: Path) -> None:
    q, k, v = (torch.randn(1, 1, n, 8) for n in (10, 100, 100))
    q_long = torch.randn(1, 1, 100, 8)
    with autoprec.capture(None, file, tokens=20, calls=9):
        functional.scaled_dot_product_attention(q_long, k, v, is_causal=True)
        functional.scaled_dot_product_attention(q[:, :, :1], k, v)
        mask = torch.ones(10, 100).tril(90).bool()
        functional.scaled_dot_product_attention(q, k, v, mask)
    prefill, decode, append = read(file).heads
    assert torch.equal(prefill.k, k[0, 0, :20])
    assert torch.equal(prefill.q[0], q_long[0, 0, :20])
    assert torch.equal(decode.k, torch.cat((k[0, 0, :10], k[0, 0, 90:])))
    assert (append.causal, append.q.shape[1], len(append.k)) == (True, 10, 20)


def test_torchs_own_modules(file: Path) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, batch_first=True).eval()
    x = torch.randn(2, 10, 32)
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), autoprec.capture(layer, file) as recording:
        layer(x)
    assert (recording.left_out, recording.layers) == ({}, ["self_attn"])
    assert {(len(head.k), head.causal) for head in read(file).heads} == {(10, False)}
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_compiled_functions_run_eagerly(model: nn.Module, file: Path) -> None:
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(1, 20, 32)
    compiled(x)
    with autoprec.capture(model, file) as recording:
        compiled(x)
    assert recording.layers == ["0", "2"]


def test_other_threads_are_left_alone(model: nn.Module, file: Path) -> None:
    other = nn.Sequential(Attention()).eval()
    x = torch.randn(1, 20, 32)

    def work() -> None:
        for _ in range(20):
            other(x)

    thread = threading.Thread(target=work)
    with autoprec.capture(model, file, calls=99) as recording:
        thread.start()
        for _ in range(20):
            model(x)
        thread.join()
    assert recording.layers == ["0", "2"]
    assert not nn.modules.module._global_forward_pre_hooks


def test_nothing_to_write_is_an_error(file: Path) -> None:
    with (
        pytest.raises(InputError, match="no attention was captured: nothing called scaled_dot"),
        autoprec.capture(None, file),
    ):
        pass
    with (
        pytest.raises(InputError, match="no attention was captured: 1 had a bias that is added"),
        autoprec.capture(None, file),
    ):
        functional.scaled_dot_product_attention(
            *[torch.randn(1, 2, 4, 8)] * 3, attn_mask=torch.randn(4, 4)
        )
    assert not file.exists()


def test_an_error_inside_leaves_no_file_and_no_hook(model: nn.Module, file: Path) -> None:
    def fail() -> None:
        model(torch.randn(1, 20, 32))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), autoprec.capture(model, file):
        fail()
    assert not file.exists()
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_places_and_arguments_are_checked_first(tmp_path: Path) -> None:
    wrong: list[tuple[Any, Any, dict[str, Any], str]] = [
        (None, tmp_path, {}, "is a folder, not a file"),
        (None, tmp_path / "no" / "file", {}, "is no folder that can be written to"),
        ("llama", tmp_path / "file", {}, "model must be a torch.nn.Module or None, got str"),
        (None, tmp_path / "file", {"calls": 0}, "calls must be a whole number above zero, got 0"),
    ]
    for model, path, options, sentence in wrong:
        with pytest.raises(InputError, match=sentence), autoprec.capture(model, path, **options):
            raise AssertionError("must not run")


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_models_of_transformers(implementation: str, file: Path) -> None:
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=100, attn_implementation=implementation,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 100, (2, 12))
    with torch.no_grad():
        before = model(ids).logits
        with autoprec.capture(model, file, calls=9) as recording:
            assert torch.equal(model(ids).logits, before)
            padded = torch.ones_like(ids)
            padded[0, :4] = 0
            model(ids, attention_mask=padded)
            model.generate(ids[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert recording.left_out == {}
    assert recording.layers == [f"model.layers.{n}.self_attn" for n in range(3)]
    captured = read(file)
    assert {head.q.shape[0] for head in captured.heads} == {2}  # heads are not repeated
    assert {head.heads for head in captured.heads} == {(4, 2)}
    assert (1, 14) in {(head.q.shape[1], len(head.k)) for head in captured.heads}
    assert "get_interface" not in vars(transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS)
