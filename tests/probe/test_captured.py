"""Captured tensors as an input family; files that are damaged, huge or of something else."""

import json
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch
from safetensors.torch import save_file

from autoprec.errors import InputError
from autoprec.kernels.reference import attention
from autoprec.probe.captured import read
from autoprec.probe.families import Group, Heads
from autoprec.types import CAPTURED, Workload

CPU = torch.device("cpu")


def tensors(
    name: str = "0.0", *, group: int = 2, kv_heads: int = 2, q_len: int = 40, kv_len: int = 40,
    seed: int = 0,
) -> dict[str, torch.Tensor]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    sizes = {"q": (group * kv_heads, q_len), "k": (kv_heads, kv_len), "v": (kv_heads, kv_len)}
    return {f"{name}.{x}": torch.randn(*size, 16, generator=generator) for x, size in sizes.items()}


def saved(path: Path, found: dict[str, torch.Tensor], **told: dict[str, Any]) -> Path:
    file = path / "captured.safetensors"
    save_file(found, file, metadata={key: json.dumps(value) for key, value in told.items()})
    return file


def test_a_workload_of_captured_heads(tmp_path: Path) -> None:
    """The tokens are a prefix of what was captured, so that attention is a part of that, too."""
    its = tensors()
    file = saved(tmp_path, its, **{"0.0": {"layer": 3, "sm_scale": 0.5, "heads": "32/16"}})
    captured = read(file)
    assert (len(captured.heads), captured.layers, captured.left_out) == (2, [3], 0)
    geometry = captured.geometry()
    (layers,) = geometry.layers
    assert (layers.q_heads, layers.kv_heads, geometry.context) == (32, 16, 40)
    (family,) = captured.families(per_layer=False).values()
    assert family.group is Group.TYPICAL
    whole, _ = attention(*(its[f"0.0.{x}"][None] for x in "qkv"), diagonal=0, sm_scale=0.5)
    for q_len, phase in ((30, "prefill"), (5, "append"), (1, "decode")):
        workload = made_up.workload(
            phase=phase, q_len=q_len, kv_len=30, head_dim=16, q_heads=4, kv_heads=2
        )
        q, k, v, sm_scale = family.draw(workload, 7, CPU)
        assert sm_scale == 0.5
        out, _ = attention(q, k, v, diagonal=30 - q_len, sm_scale=sm_scale)
        got = sorted(out[0].unflatten(0, (2, 2)).sum((1, 2, 3)).tolist())
        want = whole[0].unflatten(0, (2, 2))[:, :, 30 - q_len : 30]
        assert got == pytest.approx(sorted(want.sum((1, 2, 3)).tolist()))
        again = family.draw(workload, 7, CPU)
        assert all(torch.equal(a, b) for a, b in zip(again[:3], (q, k, v), strict=True))


def test_too_few_tokens_and_heads_are_repeated(tmp_path: Path) -> None:
    (family,) = read(saved(tmp_path, tensors())).families(per_layer=False).values()
    workload = made_up.workload(
        batch=2, kv_len=90, head_dim=16, q_heads=12, kv_heads=4, input_dtype="bf16"
    )
    q, k, v, _ = family.draw(workload, 0, CPU)
    assert (q.shape, k.shape, v.shape) == ((2, 12, 90, 16), (2, 4, 90, 16), (2, 4, 90, 16))
    assert q.dtype == torch.bfloat16
    for x in (q, k, v):
        assert torch.equal(x[:, :, 40:80], x[:, :, :40])
    assert torch.equal(q[0, 0], q[0, 2])  # a group of 3 of one of 2


def test_a_decode_has_the_queries_of_decodes(tmp_path: Path) -> None:
    its = tensors(q_len=1)
    (family,) = read(saved(tmp_path, its)).families(per_layer=False).values()
    workload = made_up.workload(phase="decode", kv_len=25, head_dim=16, q_heads=4, kv_heads=2)
    q, k, _, _ = family.draw(workload, 0, CPU)
    assert sorted(q.flatten().tolist()) == sorted(its["0.0.q"].flatten().tolist())
    assert sorted(k.flatten().tolist()) == sorted(its["0.0.k"][:, :25].flatten().tolist())


def test_a_family_for_each_layer(tmp_path: Path) -> None:
    its = tensors("a", seed=1) | tensors("b", seed=2) | tensors("c", seed=3)
    captured = read(saved(tmp_path, its, a={"layer": 0}, b={"layer": 5}, c={"layer": 5}))
    assert list(captured.families(per_layer=False)) == [CAPTURED]
    families = captured.families(per_layer=True)
    assert [family.summary.partition(" of ")[0] for family in families.values()] == [
        "2 heads", "4 heads",
    ]  # fmt: skip
    assert list(families) == ["captured/0", "captured/5"]
    workload = made_up.workload(kv_len=40, head_dim=16, q_heads=4, kv_heads=2)
    _, k, _, _ = families["captured/0"].draw(workload, 0, CPU)
    assert sorted(k.flatten().tolist()) == sorted(its["a.k"].flatten().tolist())


def keys(heads: Heads, workload: Workload, seed: int, first: int) -> list[float]:
    """The first number of the keys of each pair, which tells whose they are."""
    _, k, _, _ = heads.draw(workload, seed, CPU, first)
    found: list[float] = k[:, :, 0, 0].flatten().tolist()
    return found


def test_rounds_have_other_heads_until_there_are_no_more(tmp_path: Path) -> None:
    its = tensors(kv_heads=7)
    (family,) = read(saved(tmp_path, its)).families(per_layer=False).values()
    workload = made_up.workload(kv_len=40, head_dim=16, q_heads=4, kv_heads=2)
    assert family.heads is not None
    assert family.heads.count(workload) == 7
    seen = [it for n in range(4) for it in keys(family.heads, workload, 5, 2 * n)]
    assert sorted(seen[:7]) == sorted(its["0.0.k"][:, 0, 0].tolist())
    assert seen[7] == seen[0]  # the eighth is the first again
    assert seen != [it for n in range(4) for it in keys(family.heads, workload, 6, 2 * n)]


def test_a_head_that_was_captured_again_is_one_head(tmp_path: Path) -> None:
    """A prompt, its next two tokens with all keys so far, and another text."""
    prompt, other = tensors("a", group=1), tensors("other", group=1, seed=1)
    longer = {x: torch.cat((prompt[f"a.{x}"], torch.ones(2, 2, 16)), 1) for x in "qkv"}
    again = {f"b.{x}": longer[x][:, :41].clone() for x in "kv"}
    again |= {"b.q": longer["q"][:, 40:41].clone()}
    again |= {f"c.{x}": longer[x] for x in "kv"} | {"c.q": longer["q"][:, 41:].clone()}
    captured = read(saved(tmp_path, prompt | again | other))
    assert len(captured.heads) == 8
    (family,) = captured.families(per_layer=False).values()
    assert family.heads is not None
    workload = made_up.workload(phase="decode", kv_len=30, head_dim=16, q_heads=2, kv_heads=2)
    assert family.heads.count(workload) == 4
    seen = [it for n in (0, 2) for it in keys(family.heads, workload, 0, n)]
    assert len(set(seen)) == 4


def test_query_heads_with_the_same_keys_are_one_head(tmp_path: Path) -> None:
    """Where a model repeats its KV heads before attention."""
    its = tensors(group=1)
    its |= {f"0.0.{x}": its[f"0.0.{x}"].repeat_interleave(3, 0) for x in "kv"}
    its["0.0.q"] = torch.randn(6, 40, 16)
    (family,) = read(saved(tmp_path, its)).families(per_layer=False).values()
    assert family.heads is not None
    workload = made_up.workload(kv_len=40, head_dim=16, q_heads=2, kv_heads=2)
    assert family.heads.count(workload) == 2


def test_names_and_a_batch_of_ones_own(tmp_path: Path) -> None:
    found = {x: torch.randn(3, 2, 8, 16) for x in "qkv"}
    captured = read(saved(tmp_path, found))
    assert len(captured.heads) == 6
    assert {head.causal for head in captured.heads} == {True}


def test_scales_that_differ_go_into_the_queries(tmp_path: Path) -> None:
    its = tensors("a", kv_heads=1) | tensors("b", kv_heads=1, seed=1)
    captured = read(saved(tmp_path, its, a={"sm_scale": 0.5}, b={"sm_scale": 0.25}))
    (family,) = captured.families(per_layer=False).values()
    workload = made_up.workload(kv_len=40, head_dim=16, q_heads=4, kv_heads=2)
    q, _, _, sm_scale = family.draw(workload, 0, CPU)
    got = sorted(float((q[0, 2 * pair : 2 * pair + 2] * sm_scale).norm()) for pair in range(2))
    want = sorted((float(its["a.q"].norm()) * 0.5, float(its["b.q"].norm()) * 0.25))
    assert got == pytest.approx(want)


def test_a_large_file_is_read_in_part(tmp_path: Path) -> None:
    its = tensors("a", kv_heads=8) | tensors("b", kv_heads=8, seed=1)
    file = saved(tmp_path, its, a={"layer": 0}, b={"layer": 1})
    head = 4 * 16 * (2 * 40 + 2 * 40)
    captured = read(file, max_bytes=4 * head)
    assert (len(captured.heads), captured.layers, captured.left_out) == (4, [0, 1], 12)
    with pytest.raises(InputError, match="a single head of a takes 0 MiB, and at most 0 MiB"):
        read(file, max_bytes=head - 1)


def test_ten_gigabytes_take_no_more(tmp_path: Path) -> None:
    """The file has holes: its tensors are zeros that lie nowhere."""
    shape, end, header = [640, 20480, 128], 0, {}
    for name in "qkv":
        start, end = end, end + 2 * 640 * 20480 * 128
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    file = tmp_path / "captured.safetensors"
    with open(file, "wb") as huge:
        huge.write(len(text).to_bytes(8, "little") + text)
        huge.truncate(8 + len(text) + end)
    assert file.stat().st_size > 10e9
    captured = read(file, max_bytes=64 << 20)
    assert (len(captured.heads), captured.left_out) == (2, 638)


def test_workloads_of_other_shapes_are_refused(tmp_path: Path) -> None:
    captured = read(saved(tmp_path, tensors(), **{"0.0": {"causal": False}}))
    fitting = {"kv_len": 40, "head_dim": 16, "q_heads": 4, "kv_heads": 2}
    captured.check([made_up.workload(mask="full", **fitting)])
    captured.check([made_up.workload(phase="decode", **fitting)])
    with pytest.raises(InputError, match="holds full attention alone, and prefill b1 .* --mask fu"):
        captured.check([made_up.workload(**fitting)])
    with pytest.raises(InputError, match="holds head dims 16/16, and .* has 128/128. Try: --head"):
        captured.check([made_up.workload(**(fitting | {"head_dim": 128}))])
    with pytest.raises(
        InputError, match="plain attention alone, and .* has a sliding window and a "
    ):
        captured.check([made_up.workload(mask="full", window=8, soft_cap=3.0, **fitting)])


def damaged(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.count(". ") == 1  # one sentence, and what to try
    assert "\n" not in sentence
    return caught.value.sentence.removeprefix(f"{path} holds no captured tensors: ")


def test_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "captured.safetensors"
    with pytest.raises(InputError, match="there is no file"):
        read(file)
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)
    file.touch()
    assert damaged(file) == "it is empty."
    file.write_bytes(b"\x80\x02}q\x00.pickled")
    assert damaged(file).startswith("it is cut off, or no safetensors at all (")
    whole = saved(tmp_path, tensors()).read_bytes()
    for size in (7, 20, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert damaged(file).startswith("it is cut off, or no safetensors at all (")


def with_nan(which: str, value: float) -> dict[str, torch.Tensor]:
    its = tensors()
    its[f"0.0.{which}"][1, 3, 4] = value
    return its


WRONG: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "NaN": (with_nan("k", float("nan")), "0.0.k holds NaN or infinity."),
    "infinity": (with_nan("q", float("inf")), "0.0.q holds NaN or infinity."),
    "ranks": (
        tensors() | {"0.0.v": torch.ones(40, 16)},
        "0.0.v has the shape [40, 16], not [heads, tokens, head_dim], or with a batch before.",
    ),
    "no elements": (
        {x: torch.ones(0, 2, 3) for x in "qkv"},
        "k has the shape [0, 2, 3], not [heads, tokens, head_dim], or with a batch before.",
    ),
    "lengths": (
        tensors() | {"0.0.v": torch.ones(2, 39, 16)},
        "0.0.q [4, 40, 16], k [2, 40, 16] and v [2, 39, 16] do not fit.",
    ),
    "types": (
        {x: torch.ones(1, 2, 3, dtype=torch.float64) for x in "qkv"},
        "q is in torch.float64, which is none of fp32, bf16, fp16.",
    ),
    "one that is missing": ({"a.q": torch.ones(1), "a.k": torch.ones(1)}, "a lacks v."),
    "weights": (
        {"model.weight": torch.ones(3)},
        "no tensor in it is called q, k or v, or NAME.q, NAME.k or NAME.v.",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    found, sentence = WRONG[name]
    assert damaged(saved(tmp_path, found)) == sentence


@pytest.mark.parametrize(
    "told", [{"layer": "three"}, {"sm_scale": True}, {"unknown": 1}, [], {"causal": 1}]
)
def test_metadata_that_says_something_else(told: Any, tmp_path: Path) -> None:
    assert damaged(saved(tmp_path, tensors(), **{"0.0": told})) == (
        "its metadata of 0.0 is no object of layer, module, causal, sm_scale, heads."
    )


def test_a_scale_of_nothing(tmp_path: Path) -> None:
    file = saved(tmp_path, tensors(), **{"0.0": {"sm_scale": 0.0}})
    assert damaged(file) == "the sm_scale of 0.0 is 0.0."
