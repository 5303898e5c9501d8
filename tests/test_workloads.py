"""Sizes to workloads and back."""

import json
import shlex
from dataclasses import replace

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprec.errors import InputError
from autoprec.geometry import presets
from autoprec.sizes import Sizes
from autoprec.types import Dtype, Mask, Phase, Profile, Workload
from autoprec.workloads import asked, expand, of_model, tune_command


def texts(sizes: Sizes, kind: str = "cpu") -> list[str]:
    return [str(workload) for workload in expand(sizes, kind=kind)]


def test_defaults_on_a_cpu_alternate_between_the_phases() -> None:
    assert texts(Sizes()) == [
        "prefill b1 q256 kv256 32/8 d128 causal fp32",
        "decode b1 q1 kv1024 32/8 d128 causal fp32",
        "prefill b1 q1024 kv1024 32/8 d128 causal fp32",
        "decode b4 q1 kv1024 32/8 d128 causal fp32",
        "decode b1 q1 kv4096 32/8 d128 causal fp32",
        "decode b4 q1 kv4096 32/8 d128 causal fp32",
    ]


def test_defaults_on_a_gpu_take_both_input_types_in_turn() -> None:
    found = texts(Sizes(), "cuda")
    assert len(found) == 2 * (2 + 6)
    assert found[:4] == [
        "prefill b1 q1024 kv1024 32/8 d128 causal fp32",
        "prefill b1 q1024 kv1024 32/8 d128 causal bf16",
        "decode b1 q1 kv1024 32/8 d128 causal fp32",
        "decode b1 q1 kv1024 32/8 d128 causal bf16",
    ]
    assert found[-1] == "decode b64 q1 kv8192 32/8 d128 causal bf16"


def test_lists_are_read_from_commas_and_repeats_alike_and_in_the_order_given() -> None:
    sizes = Sizes(
        phase=["decode"], batch=["8, 1", "64"], kv_len=["4096"], heads=["28/4"],
        head_dim=["192/128"], mask=["full"], input_dtype=["bf16"], out_dtype=["fp32,same,bf16"],
    )  # fmt: skip
    assert texts(sizes) == [
        f"decode b{batch} q1 kv4096 28/4 d192/128 full {dtype}"
        for dtype in ("bf16>fp32", "bf16")
        for batch in (8, 1, 64)
    ]


def test_append_has_new_tokens_of_its_own() -> None:
    assert texts(Sizes(phase=["append"], kv_len=["1024"])) == [
        "append b1 q64 kv1024 32/8 d128 causal fp32"
    ]
    assert [
        workload.q_len for workload in expand(Sizes(phase=["append"], kv_len=[1024]), kind="cuda")
    ] == [512, 512]


def test_a_q_len_goes_to_the_phases_that_can_have_it() -> None:
    sizes = Sizes(phase=["prefill,append,decode"], q_len=["512,4"], kv_len=["1024"], batch=["1"])
    assert sorted({(w.phase.value, w.q_len) for w in expand(sizes, kind="cpu")}) == [
        ("append", 512),
        ("decode", 4),
        ("prefill", 1024),
    ]
    sizes = Sizes(phase=["append"], q_len=["4"], kv_len=["1024"])
    assert [(w.phase.value, w.q_len) for w in expand(sizes, kind="cpu")] == [("append", 4)]


def test_a_q_len_alone_says_which_phase_is_meant() -> None:
    sizes = Sizes(q_len=["512,4"], kv_len=["1024"], batch=["1"])
    assert [(w.phase.value, w.q_len) for w in expand(sizes, kind="cpu")] == [
        ("append", 512),
        ("decode", 4),
    ]


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (Sizes(batch=["0"]), "--batch must be a whole number from 1 to 999999999, got '0'."),
        (Sizes(batch=["-1"]), "--batch must be a whole number from 1 to 999999999, got '-1'."),
        (Sizes(kv_len=["1e3"]), "--kv-len must be a whole number from 1 to 999999999, got '1e3'."),
        (Sizes(kv_len=["8,,9"]), "--kv-len must be a whole number from 1 to 999999999, got ''."),
        (Sizes(q_len=["²"]), "--q-len must be a whole number from 1 to 999999999, got '²'."),
        (Sizes(q_len=["9" * 5000]), None),
        (Sizes(heads=["32/"]), "--heads must be a whole number from 1 to 999999999, got '32/'."),
        (Sizes(heads=["32/7"]), "q_heads must be a multiple of kv_heads, got 32/7."),
        (Sizes(head_dim=["64/64/64"]), None),
        (Sizes(phase=["x"]), "--phase must be one of prefill, append, decode, got 'x'."),
        (Sizes(mask=["Causal"]), "--mask must be one of causal, full, got 'Causal'."),
        (Sizes(input_dtype=["fp8"]), "--input-dtype must be one of fp32, bf16, fp16, got 'fp8'."),
        (Sizes(out_dtype=["f"]), "--out-dtype must be one of same, fp32, bf16, fp16, got 'f'."),
        (
            Sizes(phase=["prefill"], q_len=["512"]),
            "--q-len 512 fits no phase asked for (prefill).",
        ),
        (
            Sizes(phase=["prefill,decode"], q_len=["17"]),
            "--q-len 17 fits no phase asked for (prefill, decode).",
        ),
        (Sizes(phase=["append"], q_len=["1"]), "--q-len 1 fits no phase asked for (append)."),
        (
            Sizes(phase=["append"], q_len=["256"], kv_len=["256"]),
            "append needs 1 < q_len < kv_len, got q_len 256, kv_len 256.",
        ),
    ],
)
def test_a_bad_value_is_named(sizes: Sizes, sentence: str | None) -> None:
    with pytest.raises(InputError) as caught:
        expand(sizes, kind="cpu")
    if sentence is not None:
        assert caught.value.sentence == sentence


@pytest.mark.parametrize("given", ["32,8", " 32 , 8 "])
def test_a_comma_where_heads_have_a_slash_is_refused_with_both_that_may_be_meant(
    given: str,
) -> None:
    with pytest.raises(InputError) as caught:
        expand(Sizes(heads=[given]), kind="cpu")
    assert str(caught.value) == (
        "--heads 32,8 would be two, 32/32 and 8/8; query and KV heads have a slash between them. "
        "Try: --heads 32/8, or --heads 32/32,8/8 where two are meant"
    )


@pytest.mark.parametrize(
    ("heads", "found"),
    [
        (["8,32"], ["8/8", "32/32"]),
        (["32,12"], ["32/32", "12/12"]),
        (["32/32,8/8"], ["32/32", "8/8"]),
        (["32,16,8"], ["32/32", "16/16", "8/8"]),
        (["32", "8"], ["32/32", "8/8"]),
    ],
)
def test_a_list_of_heads_that_can_mean_nothing_else_is_one(
    heads: list[str], found: list[str]
) -> None:
    sizes = Sizes(heads=heads, phase=["decode"], batch=["1"], kv_len=["64"])
    assert [f"{w.q_heads}/{w.kv_heads}" for w in expand(sizes, kind="cpu")] == found


def texts_of(sizes: Sizes, name: str) -> list[str]:
    return [str(workload) for workload in of_model(sizes, presets()[name], kind="cpu")]


def test_a_model_fills_what_is_left_open() -> None:
    assert texts_of(Sizes(kv_len=["512"]), "deepseek-v3")[0] == (
        "prefill b1 q512 kv512 128/128 d192/128 causal fp32"
    )
    assert texts_of(Sizes(heads=["4/1"], phase=["decode"]), "qwen3-8b")[0] == (
        "decode b1 q1 kv1024 4/1 d128 causal fp32"
    )


def test_an_encoder_is_measured_within_its_context_and_without_decode() -> None:
    assert texts_of(Sizes(), "bert-base") == [
        "prefill b1 q256 kv256 12/12 d64 full fp32",
        "prefill b1 q512 kv512 12/12 d64 full fp32",
    ]


def profile_of(workloads: list[Workload]) -> Profile:
    return made_up.profile([made_up.measurement("fp32", workload=w) for w in workloads])


def test_asking_a_profile_gives_those_that_have_every_value_given() -> None:
    workloads = expand(Sizes(out_dtype=["same,fp32"]), kind="cuda")
    profile = profile_of(workloads)
    sizes = Sizes(phase=["decode"], batch=["1,16"], kv_len=["8192"], out_dtype=["same"])
    assert [str(workload) for workload in asked(sizes, profile)] == [
        f"decode b{batch} q1 kv8192 32/8 d128 causal {dtype}"
        for batch in (1, 16)
        for dtype in ("fp32", "bf16")
    ]
    assert asked(Sizes(), profile) == workloads


def test_asking_for_what_no_profile_has_takes_the_rest_from_it() -> None:
    workloads = expand(
        Sizes(heads=["28/4"], head_dim=["192/128"], input_dtype=["fp16"]), kind="cuda"
    )
    sizes = Sizes(phase=["decode"], batch=["8"], kv_len=["4096"])
    assert [str(workload) for workload in asked(sizes, profile_of(workloads))] == [
        "decode b8 q1 kv4096 28/4 d192/128 causal fp16"
    ]
    assert [str(workload) for workload in asked(sizes, profile_of([]))] == [
        "decode b8 q1 kv4096 32/8 d128 causal fp32",
        "decode b8 q1 kv4096 32/8 d128 causal bf16",
    ]


def test_what_is_left_open_is_as_in_the_workloads_of_the_phase_in_their_combinations() -> None:
    plain = expand(Sizes(), kind="cuda")
    small = expand(
        Sizes(phase=["prefill"], heads=["32/32"], head_dim=["64"], mask=["full"],
              input_dtype=["fp16"]),
        kind="cuda",
    )  # fmt: skip
    profile = profile_of([*plain, *small])

    def texts(**sizes: list[str]) -> list[str]:
        return [str(workload) for workload in asked(Sizes(**sizes), profile)]

    decode = [
        "decode b5 q1 kv3000 32/8 d128 causal fp32",
        "decode b5 q1 kv3000 32/8 d128 causal bf16",
    ]
    prefill = ["prefill b1 q100 kv100 32/8 d128 causal fp32",
               "prefill b1 q100 kv100 32/8 d128 causal bf16",
               "prefill b1 q100 kv100 32/32 d64 full fp16"]  # fmt: skip
    assert texts(phase=["decode"], batch=["5"], kv_len=["3000"]) == decode
    assert sorted(texts(phase=["prefill"], kv_len=["100"])) == sorted(prefill)
    assert texts(phase=["prefill"], kv_len=["100"], head_dim=["64"]) == prefill[2:]
    assert texts(phase=["append"], q_len=["64"], kv_len=["100"], mask=["full"]) == [
        "append b1 q64 kv100 32/32 d64 full fp16"
    ]


sizes_of_a_workload = st.integers(1, 300)


@st.composite
def any_workload(draw: st.DrawFn) -> Workload:
    phase = draw(st.sampled_from(Phase))
    kv_len = draw(st.integers(3, 9000))
    q_lens = {
        Phase.PREFILL: st.just(kv_len),
        Phase.APPEND: st.integers(2, kv_len - 1),
        Phase.DECODE: st.integers(1, 16),
    }
    kv_heads = draw(sizes_of_a_workload)
    return Workload(
        phase=phase,
        batch=draw(sizes_of_a_workload),
        q_len=draw(q_lens[phase]),
        kv_len=kv_len,
        q_heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        head_dim=draw(sizes_of_a_workload),
        head_dim_v=draw(sizes_of_a_workload),
        mask=draw(st.sampled_from(Mask)),
        input_dtype=draw(st.sampled_from(Dtype)),
        out_dtype=draw(st.sampled_from(Dtype)),
    )


@given(any_workload())
def test_the_command_of_a_workload_gives_that_workload(workload: Workload) -> None:
    words = shlex.split(tune_command(workload))
    assert words[:2] == ["autoprec", "tune"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    sizes = Sizes(**{name[2:].replace("-", "_"): [value] for name, value in options.items()})
    assert expand(sizes, kind="cpu") == [workload]


def test_a_window_takes_a_file() -> None:
    workload = Workload(
        phase=Phase.DECODE, batch=1, q_len=1, kv_len=8, q_heads=1, kv_heads=1, head_dim=8,
        head_dim_v=8, mask=Mask.CAUSAL, window=4, input_dtype=Dtype.FP32, out_dtype=Dtype.FP32,
    )  # fmt: skip
    echo, entry, *rest = shlex.split(tune_command(workload))
    assert echo == "echo"
    assert " ".join(rest) == "> workloads.json && autoprec tune --workloads workloads.json"
    assert json.loads(entry)[0]["window"] == 4


def test_a_mask_of_one_s_own_is_in_no_command() -> None:
    workload = Workload(
        phase=Phase.DECODE, batch=1, q_len=1, kv_len=8, q_heads=1, kv_heads=1, head_dim=8,
        head_dim_v=8, mask=Mask.FULL, custom_mask=True, input_dtype=Dtype.FP32,
        out_dtype=Dtype.FP32,
    )  # fmt: skip
    assert tune_command(workload) == tune_command(replace(workload, custom_mask=False))
    entry = shlex.split(tune_command(replace(workload, window=4)))[1]
    assert json.loads(entry)[0]["custom_mask"] is False
