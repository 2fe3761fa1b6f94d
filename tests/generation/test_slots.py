"""The engine: the same tokens as one by one, no wasted slots, and memory that runs out."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import EOS, PAD, build, one_by_one, prompts

from nbutils.core.errors import InputError
from nbutils.generation import slots
from nbutils.generation.slots import Draft, Room, Rules, SlotCounts, decode

GREEDY = Rules(EOS, PAD)
LIMIT = 40
KINDS = {"llama": {}, "mistral": {"sliding_window": 8}}


@pytest.fixture(scope="module", params=KINDS)
def known(request):
    """A model, 64 prompts of unequal lengths, and their answers one by one."""
    model, asked = build(request.param, **KINDS[request.param]), prompts()
    return model, asked, one_by_one(model, asked, [LIMIT] * len(asked))


@pytest.fixture(scope="module")
def llama():
    """A Llama, 24 prompts, and their answers one by one."""
    model, asked = build(), prompts(24)
    return model, asked, one_by_one(model, asked, [LIMIT] * len(asked))


def drafts(asked, limit=LIMIT):
    return [Draft(str(number), list(ids), limit, seed=number) for number, ids in enumerate(asked)]


def write(model, asked, rows=8, rules=GREEDY, tokens=10_000, tally=None, **options):
    made = drafts(asked)
    done = list(decode(model, made, rules, Room(rows, tokens), tally or SlotCounts(), **options))
    assert sorted(map(id, done)) == sorted(map(id, made)), "every draft is yielded once"
    return [draft.new for draft in made]


# --- the same answers ----------------------------------------------------------------------------------------------


def test_greedy_answers_are_those_of_one_by_one(known):
    model, asked, expected = known
    assert write(model, asked) == expected
    lengths = {len(answer) for answer in expected}
    assert len(lengths) > 10
    assert {answer[-1] == EOS for answer in expected} == {True, False}


def test_a_sliding_window_matters_to_these_prompts():
    asked = prompts(16, shortest=12)
    narrow, wide = (build("mistral", sliding_window=width) for width in (8, None))
    assert write(narrow, asked) != write(wide, asked)


@pytest.mark.parametrize("rows", [1, 3, 24])
def test_the_number_of_slots_changes_nothing(llama, rows):
    model, asked, expected = llama
    assert write(model, asked, rows) == expected


def test_the_end_is_banned_for_the_first_tokens(llama):
    model, asked, free = llama
    made = write(model, asked, rules=GREEDY._replace(min_new=20))
    assert made == one_by_one(model, asked, [LIMIT] * len(asked), min_new_tokens=20)
    assert min(map(len, free)) < 20 < min(map(len, made))


def test_each_answer_has_its_own_limit(llama):
    model, asked, expected = llama
    made = drafts(asked)
    for number, draft in enumerate(made):
        draft.max_new = 1 + number
    assert len(list(decode(model, made, GREEDY, Room(8, 10_000), SlotCounts()))) == len(made)
    assert [draft.new for draft in made] == [answer[: 1 + number] for number, answer in enumerate(expected)]


def test_answers_come_as_soon_as_they_are_finished(llama):
    model, asked, _ = llama
    made = drafts(asked)
    first = next(decode(model, made, GREEDY, Room(24, 10_000), SlotCounts()))
    unfinished = [draft for draft in made if not draft.is_finished(EOS)]
    assert first.is_finished(EOS)
    assert len(unfinished) >= 20
    assert max(len(draft.new) for draft in unfinished) == len(first.new)


# --- sampling ------------------------------------------------------------------------------------------------------


def test_a_sampled_answer_does_not_depend_on_its_neighbours(llama):
    model, asked, greedy = llama
    rules = GREEDY._replace(temperature=1.0)
    alone, together = write(model, asked, 1, rules), write(model, asked, 16, rules)
    assert alone == together
    assert sum(sampled != answer for sampled, answer in zip(alone, greedy, strict=True)) > 12
    again = [Draft("x", list(asked[0]), LIMIT, seed=seed) for seed in range(8)]
    assert len({tuple(draft.new) for draft in decode(model, again, rules, Room(8, 9999), SlotCounts())}) > 4


def test_tokens_are_drawn_by_their_chances_at_the_temperature():
    many = [Draft("x", [1], 9, seed=seed) for seed in range(4000)]
    scores = torch.tensor([[0.0, math.log(3.0), -math.inf]]).repeat(4000, 1)
    for temperature, chance in ((1.0, 3 / 4), (0.5, 9 / 10)):
        drawn = slots.choose(scores, many, Rules(eos=2, pad=0, temperature=temperature))
        assert set(drawn) == {0, 1}
        assert abs(sum(drawn) / 4000 - chance) < 5 * math.sqrt(chance * (1 - chance) / 4000)


def test_rare_tokens_are_drawn_by_their_chances_too():
    """Of 400 tokens alike only 64 are drawn from one by one: the others have to come as often."""
    many = [Draft("x", [1], 9, seed=seed) for seed in range(4000)]
    drawn = torch.tensor(slots.choose(torch.zeros(4000, 400), many, Rules(eos=2, pad=0, temperature=1.0)))
    counts = torch.bincount(drawn, minlength=400).float()
    assert len(counts) == 400 and counts.std() < 1.25 * math.sqrt(10), "chi-square: as even as chance allows"
    assert counts.max() < 30 and counts.min() > 0


def test_a_token_without_a_chance_is_never_drawn():
    scores = torch.full((3000, 100), -math.inf)
    scores[:, 7] = 0
    many = [Draft("x", [1], 9, seed=seed) for seed in range(3000)]
    assert set(slots.choose(scores, many, Rules(eos=2, pad=0, temperature=0.5))) == {7}


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_not_numbers_are_refused(broken, temperature):
    with pytest.raises(InputError, match="scores are not numbers"):
        slots.choose(torch.tensor([[0.0, broken, 1.0]]), [Draft("x", [1], 9)], Rules(EOS, PAD, 0, temperature))


# --- slots ---------------------------------------------------------------------------------------------------------


class Watch:
    """Rows of every forward pass, as the model itself sees them; calls `upset` before each."""

    def __init__(self, model, upset=lambda rows, columns: None):
        self.decoded, self.read, self._upset = [], [], upset
        self._handle = model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module, arguments, given):
        rows, columns = given["input_ids"].shape
        (self.decoded if columns == 1 else self.read).append(rows)
        self._upset(rows, given["attention_mask"].shape[1])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._handle.remove()


def test_no_slot_computes_for_a_finished_answer(known):
    model, asked, expected = known
    tally = SlotCounts()
    with Watch(model) as watch:
        write(model, [ids for ids in asked if len(ids) > 1], 16, tally=tally)
    # Of every answer the first token comes with the prompt, and each further one takes one slot.
    useful = sum(len(answer) - 1 for ids, answer in zip(asked, expected, strict=True) if len(ids) > 1)
    assert sum(watch.decoded) == useful == tally.useful
    assert tally.steps == len(watch.decoded)
    assert 0.9 <= tally.useful / tally.executed < 1, "a slot that waits to be refilled counts as wasted"
    assert tally.facts()["useful_slots"] == round(tally.useful / tally.executed, 4)
    assert max(watch.decoded) == 16
    assert len(watch.read) == tally.prefills < len(asked) / 2


def test_columns_that_nobody_needs_are_dropped():
    model, widths = build(), []
    asked = [list(range(4, 60)) * 3, *prompts(12, 2, 4)]
    made = drafts(asked)
    made[0].max_new = 2
    with Watch(model, lambda rows, columns: widths.append(columns)):
        list(decode(model, made, GREEDY._replace(min_new=LIMIT), Room(4, 10_000), SlotCounts()))
    assert max(widths) == len(asked[0]) + 1
    last = len(widths) - widths[::-1].index(len(asked[0]) + 1)
    assert 4 < max(widths[last:]) <= 4 + LIMIT


lengths = st.tuples(st.integers(1, 50), st.integers(1, 50))


@settings(max_examples=200)
@given(
    st.lists(lengths, min_size=1, max_size=20), st.lists(lengths, max_size=8), st.integers(1, 12), st.integers(1, 900)
)
def test_what_enters_has_a_slot_and_room_at_its_final_length(waiting, live, most, tokens):
    waiting, live = ([Draft("x", [1] * prompt, new) for prompt, new in each] for each in (waiting, live))
    count = slots.count_admissible(waiting, live, Room(max(most, len(live)), tokens))
    rows = live + waiting[:count]
    assert 0 <= count <= len(waiting)
    assert len(rows) <= max(most, len(live))
    if count and len(rows) > 1:
        assert len(rows) * max(draft.final_length for draft in rows) <= tokens
    assert live or count >= 1, "what does not fit alone is tried alone"


def test_prompts_of_similar_length_are_read_together():
    waiting = [Draft("x", [1] * length, 9) for length in (100, 60, 50, 49, 48, 9)]
    assert slots.count_similar(waiting, 6) == 3
    assert slots.count_similar(waiting, 2) == 2
    assert slots.count_similar(waiting[5:], 1) == 1


@given(st.integers(1, 64), st.integers(0, 64), st.integers(0, 64))
def test_decoding_always_goes_on(live, free, waiting):
    assert not slots.is_worth_a_prefill(0, live, waiting)
    assert slots.is_worth_a_prefill(1 + free, 0, waiting)
    assert slots.is_worth_a_prefill(1 + free, live, 1 + free), "the last ones do not wait for more"


def test_prompts_are_read_in_portions():
    waiting = [Draft("x", [1] * 1000, 9) for _ in range(30)]
    assert slots.count_similar(waiting, 30) == slots.READ_COLUMNS // 1000
    assert slots.count_similar([Draft("x", [1] * 3 * slots.READ_COLUMNS, 9)], 1) == 1


def test_other_kinds_of_layers_are_refused():
    model = build()
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(InputError, match=r"knows attention layers only, and this model has linear_attention: set"):
        write(model, prompts(2))


# --- the cache -----------------------------------------------------------------------------------------------------


def states(rows, columns, mark):
    """Keys and values of new tokens; every number says which row's and which token's it is."""
    made = torch.tensor([[1000.0 * (mark + row) + column for column in range(columns)] for row in range(rows)])
    return made[:, None, :, None].repeat(1, 2, 1, 3), -made[:, None, :, None].repeat(1, 2, 1, 3)


def test_rows_come_go_and_grow_and_keep_what_is_theirs(monkeypatch):
    """Against a cache that is made anew at each event, over rows of many lengths and few spare columns."""
    from nbutils.generation import cache

    monkeypatch.setattr(cache, "SPARE", 3)
    random, held, mark = torch.Generator().manual_seed(5), cache.SlotCache(), 0
    expected = []  # of each row its own states, the oldest first
    for _ in range(200):
        event = int(torch.randint(0, 4, (1,), generator=random))
        if event == 0 and len(expected) < 9:
            rows, columns = (int(torch.randint(1, most, (1,), generator=random)) for most in (4, 12))
            held.expect(len(expected) + rows)
            keys, _ = held.update(*states(rows, columns, mark), 0)
            assert keys.shape[2] == columns, "new rows attend to themselves"
            expected += [list(1000.0 * (mark + row) + torch.arange(columns)) for row in range(rows)]
            mark += rows
        elif event == 1 and len(expected) > 1:
            kept = [row for row in range(len(expected)) if torch.rand(1, generator=random) < 0.7] or [0]
            order = held.keep(kept, max(len(expected[row]) for row in kept))
            assert sorted(order) == kept
            expected = [expected[row] for row in order]
        elif expected:
            held.expect(0)
            held.update(*states(len(expected), 1, mark), 0)
            for number, row in enumerate(expected):
                row.append(torch.tensor(1000.0 * (mark + number)))
            mark += len(expected)
        for keys, sign in ((held.layers[0].keys, 1), (held.layers[0].values, -1)) if expected else ():
            assert keys.shape[:3] == (len(expected), 2, held.width)
            assert keys.isfinite().all(), "what stands before a row is hidden by a mask, which no infinity survives"
            for row, own in enumerate(expected):
                assert torch.equal(sign * keys[row, 1, held.width - len(own) :, 2], torch.stack(own))


def test_no_step_copies_the_cache_and_no_layer_waits_for_another(llama, monkeypatch):
    """A step writes one column in place; blocks are made anew once in SPARE columns, one layer after the other."""
    from nbutils.generation import cache

    model, asked, expected = llama
    made, grow = [], cache.SlotLayer._grow

    def watch(layer, *arguments):
        grow(layer, *arguments)
        made.append(sum(block.numel() for block in layer._blocks))

    monkeypatch.setattr(cache.SlotLayer, "_grow", watch)
    assert write(model, asked, 24) == expected
    layers = model.config.num_hidden_layers
    assert len(made) <= layers * 4, "all prompts at once, then 40 columns"


# --- memory --------------------------------------------------------------------------------------------------------


def cuda_is_full(rows, columns):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_is_full(rows, columns):
    torch.empty(2**55, dtype=torch.uint8)


@pytest.mark.thorough
@pytest.mark.parametrize("fail", [cuda_is_full, cpu_is_full])
def test_memory_that_runs_out_halves_the_rows_and_loses_nothing(llama, fail, capsys):
    model, asked, expected = llama
    tally = SlotCounts()

    def upset(rows, columns):
        # As a device would: the more rows and columns, the fuller.
        if rows * columns > 150:
            fail(rows, columns)

    with Watch(model, upset):
        assert write(model, asked, 16, tally=tally) == expected
    said = re.findall(r"out of memory with (\d+) rows at once: going on with (\d+)\n", capsys.readouterr().out)
    assert tally.halvings == len(said) >= 2
    assert all(int(after) == int(before) // 2 for before, after in said)


def test_what_was_written_before_memory_ran_out_is_kept(llama):
    model, asked, expected = llama
    calls = []

    def upset(rows, columns):
        calls.append(rows)
        if len(calls) == 12:
            cuda_is_full(rows, columns)

    made, tally = drafts(asked[:8]), SlotCounts()
    with Watch(model, upset):
        list(decode(model, made, GREEDY, Room(8, 10_000), tally))
    assert [draft.new for draft in made] == expected[:8]
    in_flight = calls[10]
    # Tokens by slots, plus one for every prompt that was read, of which the rows in flight were read twice.
    assert sum(map(len, expected[:8])) == tally.useful + 8 + in_flight


def test_a_prompt_that_does_not_fit_alone_is_named(llama):
    model, asked, _ = llama
    with Watch(model, cuda_is_full), pytest.raises(InputError, match=r"prompt '0' \(\d+ tokens\) does not fit"):
        write(model, asked[:1])


def test_other_errors_are_not_taken_for_a_lack_of_memory(llama):
    model, asked, _ = llama

    def upset(rows, columns):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with Watch(model, upset), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        write(model, asked[:4])
