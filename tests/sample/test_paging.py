"""A cache of pages: the answers of a cache without, in as little memory as was asked for, and nothing is lost."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from tigerjax import mesh as mesh_axes
from tigerjax.config import FLOAT32, MeshConfig
from tigerjax.errors import ConfigError
from tigerjax.model import cache as kv
from tigerjax.model import decoder
from tigerjax.model.decode import decode_step
from tigerjax.model.layers import init
from tigerjax.model.mistral.sizes import MistralConfig
from tigerjax.sample import paging, slots
from tigerjax.sample.engine import Batching, SamplingConfig, Stats, generate
from tigerjax.sample.folder import sample_prompts

SAMPLED = SamplingConfig(n=4, max_new_tokens=12, seed=0)  # some answers end at an id, some at the limit
GREEDY = SamplingConfig(n=2, temperature=0.0, max_new_tokens=12, seed=0)
BATCHING = Batching(prompts=2, rows=8)
TIGHT = 76  # of the longest prompt, 62 tokens with its markers, and its answer: 19 pages of 4 slots
SCARCE = 120


@pytest.fixture(autouse=True)
def short_pages(monkeypatch) -> None:
    """Of 4 slots, so that tiny prompts and answers have several."""
    monkeypatch.setattr(paging, "PAGE_SLOTS", 4)
    monkeypatch.setattr(paging, "STRETCH", 2)


def sample(model, prompts, sampling=SAMPLED, *, tokens=None, batching=BATCHING, **compute):
    """(what must be the same, counts) of a cache with room for `tokens`."""
    stats, given = Stats(), dataclasses.replace(model.compute, cache_tokens=tokens, **compute)
    records = list(
        generate(dataclasses.replace(model, compute=given), prompts, sampling, batching=batching, stats=stats)
    )
    return {r["prompt_id"]: [(c["cid"], c["token_ids"], c["finish"]) for c in r["candidates"]] for r in records}, stats


@pytest.mark.parametrize("sampling", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
def test_answers_are_those_of_a_cache_without_pages_however_small_it_is(tiny, prompts, sampling) -> None:
    model = tiny.loaded()
    wanted, plain = sample(model, prompts, sampling)
    back = []
    for tokens in (10**6, SCARCE, TIGHT):
        got, stats = sample(model, prompts, sampling, tokens=tokens)
        assert got == wanted and stats.drawn == plain.drawn
        back.append(stats.put_back)
    assert back[0] == 0 < back[1] < back[2]


@pytest.mark.parametrize("change", ["a window", "an int8 cache", "kernels"])
def test_the_same_with(tiny, prompts, change) -> None:
    model = tiny.loaded()
    how = {"decode_kernels": "interpret"} if change == "kernels" else {}
    if change == "an int8 cache":
        model = dataclasses.replace(model, cache_dtype="int8")
    if change == "a window":
        sizes = {f.name: getattr(model.config, f.name) for f in dataclasses.fields(model.config)}
        model = dataclasses.replace(model, config=MistralConfig(**sizes, sliding_window=7))
    wanted, _ = sample(model, prompts[3::2], **how)
    got, stats = sample(model, prompts[3::2], tokens=64, **how)
    assert got == wanted and stats.put_back


@pytest.mark.parametrize("degrees", [{"data": 2, "tensor": 2}, {"data": 2, "fsdp": 2}], ids=str)
def test_devices_have_pages_of_their_own(tiny, prompts, degrees) -> None:
    attn = {name: w[:, :, :2] if name in "kv" else w for name, w in tiny.weights["layers"]["attn"].items()}
    layers = tiny.weights["layers"] | {"attn": attn}
    tiny = tiny._replace(
        config=dataclasses.replace(tiny.config, num_kv_heads=2), weights=tiny.weights | {"layers": layers}
    )
    mesh = mesh_axes.make_mesh(MeshConfig(**degrees), jax.devices()[:4])
    boxed = jax.eval_shape(lambda k: init(decoder.LanguageModel(tiny.config, FLOAT32), k), jax.random.key(0))
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, mesh_axes.logical_rules())
    placed = tiny._replace(weights=jax.device_put(tiny.weights, nn.unbox(shardings))).loaded(mesh=mesh)
    asked, batching = prompts[3::2], Batching(prompts=4, rows=8)
    wanted, _ = sample(tiny.loaded(), asked)
    got, stats = sample(placed, asked, tokens=64 * mesh_axes.row_ways(mesh), batching=batching)
    assert got == wanted
    tight, fewer = sample(placed, asked, tokens=56 * mesh_axes.row_ways(mesh), batching=batching)
    assert tight == wanted and fewer.put_back >= stats.put_back and fewer.put_back


def test_the_cache_is_as_small_as_asked_and_a_step_copies_none_of_it(tiny) -> None:
    ways, rows, room = 2, 8, 100
    form = paging.in_pages(kv.PLAIN, 150, rows, room, ways)
    state = jax.eval_shape(lambda: slots.empty(tiny.config, FLOAT32, rows, room, 12, None, form))
    (k_LBKHS,), (v_LBKSH,) = state.cache.keys, state.cache.values
    pages = ways * (-(-75 // 4) + 1)  # each device's half in whole pages, and its empty one
    assert k_LBKHS.shape == (2, pages, 3, 10, 4) and v_LBKSH.shape == (2, pages, 3, 4, 10)
    assert state.cache.page_BT.shape == (rows, 25)
    most = paging.in_pages(kv.PLAIN, 10**9, rows, room, ways)
    assert most.pages == rows * 25 + ways  # no more than the rows can fill
    assert paging.in_pages(kv.PLAIN, None, rows, room, ways) == kv.PLAIN

    large = paging.in_pages(kv.PLAIN, 40_000, 4, 40_000, 1)
    state = jax.eval_shape(lambda: slots.empty(tiny.config, FLOAT32, 4, 40_000, 12, None, large))
    new_LBKH = jax.ShapeDtypeStruct((2, 4, 3, 10), np.float32)
    append = jax.jit(lambda c, new, at: kv.append(c, (new,), (new,), at), donate_argnums=0)
    compiled = append.lower(state.cache, new_LBKH, jax.ShapeDtypeStruct((4,), np.int32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < state.cache.keys[0].size * 4 / 10


def test_a_decode_that_runs_in_a_loop_copies_no_pages(tiny) -> None:
    """Nor does it hold the rows of more than one layer side by side at a time, as a cache without pages would be."""
    weights, rows, room = kv.unstack(tiny.weights), 3, 36
    form = paging.in_pages(kv.Form(tiny.config.num_layers), 50, rows, room, 1)
    state = jax.eval_shape(lambda: slots.empty(tiny.config, FLOAT32, rows, room, 12, None, form))

    def steps(cache):
        def step(_, carried):
            cache, token_B = carried
            logits_BV, cache = decode_step(weights, tiny.config, FLOAT32, cache, token_B, cache.lengths_B)
            return cache, jax.numpy.argmax(logits_BV, -1)

        return jax.lax.fori_loop(0, 4, step, (cache, jax.numpy.zeros(rows, jax.numpy.int32)))

    text = jax.jit(steps, donate_argnums=0).lower(state.cache).compile().as_text()
    shapes = ["f32[" + ",".join(map(str, a[0].shape)) + "]" for a in (state.cache.keys, state.cache.values)]
    assert all(f"= {shape}" in text for shape in shapes)
    assert not [line for line in text.splitlines() for shape in shapes if f"= {shape}" in line and " copy(" in line]


def test_the_figures_of_a_folder_say_how_many_were_put_back(tiny, prompts, tmp_path) -> None:
    model = tiny.loaded()
    figures = sample_prompts(model, prompts[:2], tmp_path / "plain", SAMPLED, batching=BATCHING)
    assert "put_back" not in figures
    paged = dataclasses.replace(model, compute=dataclasses.replace(model.compute, cache_tokens=TIGHT))
    few = sample_prompts(paged, prompts[:2], tmp_path / "pages", SAMPLED, batching=BATCHING)
    assert few["put_back"] > 0 and few["tokens"] == figures["tokens"]


def test_answers_of_one_prompt_share_its_full_pages() -> None:
    form = paging.in_pages(kv.PLAIN, 60, 8, 24, 1)
    pages = paging.Pages(form, 8, 24, 1)
    first, (second, copied_T) = pages.start([5, 6], 0, 10, 9), pages.start([6], 0, 10, 9)
    assert first[0] == 5 and second == 6
    assert (first[1][:3] < paging.NOWHERE).all() and (first[1][3:] == paging.NOWHERE).all()
    assert (copied_T != paging.NOWHERE).tolist() == [False, False, True, False, False, False]  # the last, not full
    table_RT = pages.table_RT
    assert (table_RT[5, :2] == table_RT[6, :2]).all() and table_RT[5, 2] != table_RT[6, 2]
    assert len({*table_RT[5:7].flat} - {0}) == 4
    pages.end(5)
    assert (pages.table_RT[6, :2] > 0).all() and not pages.table_RT[5].any()
    again, copied_T = pages.start([5], 0, 10, 9)  # the other still has the full ones
    assert again == 5 and (copied_T[:2] == paging.NOWHERE).all()
    pages.end(5)
    pages.end(6)
    (_, copied_T) = pages.start([0], 0, 10, 9)
    assert (copied_T[:3] < paging.NOWHERE).all()  # nobody had them any more


@pytest.mark.parametrize("length", [513, 897, 1023, 1024])
def test_half_of_the_memory_is_enough_for_ten_answers_a_prompt(monkeypatch, length) -> None:
    """docs/TPU.md, "The sampler": 640 slots, prompts of up to 1,024 tokens and answers of 512."""
    monkeypatch.setattr(paging, "PAGE_SLOTS", 128)
    pages = paging.Pages(paging.in_pages(kv.PLAIN, 320 * 1536, 640, 1536, 1), 640, 1536, 1)
    free = [*range(640)]
    for slot in range(640):
        assert pages.start(free[slot:], slot // 10, length, 512)[0] == slot
    assert pages.grow(dict.fromkeys(free, length + 511)) == []


def test_the_one_started_last_is_put_back_and_waits_until_another_has_ended() -> None:
    pages = paging.Pages(paging.in_pages(kv.PLAIN, 20, 4, 20, 1), 4, 20, 1)
    for slot in (2, 0):
        assert pages.start([slot], slot, 6, 15)[0] == slot  # 2 of 5 pages each
    assert pages.grow({2: 7, 0: 6}) == []  # 3 and 2
    assert pages.grow({2: 11, 0: 6}) == [0]  # 4; the older one takes from the younger
    assert pages.start([0], 0, 2, 3) is None  # though a page is free
    assert pages.grow({2: 15}) == []  # all 5
    pages.end(2)
    assert pages.start([0], 0, 6, 15)[0] == 0


def test_a_cache_too_small_for_one_candidate_is_refused_before_anything_is_compiled(tiny, prompts) -> None:
    before, model = slots.traced[0], tiny.loaded()
    with pytest.raises(ConfigError) as refused:
        sample(model, prompts, tokens=72)
    assert slots.traced[0] == before
    assert str(refused.value) == (
        "compute.cache_tokens=72 has no room for a prompt and its longest answer, 73 tokens; give at least 76, or fewer"
        " max_new_tokens"
    )
    with pytest.raises(ConfigError, match=r"73 tokens, and each of 2 groups of devices .* give at least 152"):
        paging.check(76, 73, 2)
    paging.check(152, 73, 2)
    with pytest.raises(ConfigError, match=r"compute\.cache_tokens=0"):
        sample(model, prompts, tokens=0)
