import numpy as np
import pytest
import torch
from tiny import TINY, tiny_engine, tiny_model

from gptviz.analysis import highlights
from gptviz.analysis.heads import all_head_scores
from gptviz.analysis.logit_attribution import attribute_logit
from gptviz.analysis.logit_lens import stream_points
from gptviz.analysis.prediction import prediction_table
from gptviz.engine import Engine
from gptviz.experiments.skeleton import untrained_twin
from gptviz.interventions import Part
from gptviz.numerics.clear_kinds import clear_kinds

TEXT = "Once upon a time there was a little dog. The little dog"
TEXTS = [TEXT, "The cat sat", "the the the the the the", "A", "I am", "One two three one two three one two"]


@pytest.fixture(scope="module", params=["tiny", "1 layer, 1 head", "story"])
def engine(request):
    if request.param == "1 layer, 1 head":
        return tiny_engine(n_layers=1, n_heads=1)
    return request.getfixturevalue(request.param)


# --- clear heads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_the_strongest_head_of_a_kind_has_the_highest_score_of_those_that_are_clear(engine, text):
    trace = engine.run(text)
    table = all_head_scores(trace).set_index(["layer", "head"])
    clear = {(layer, head): highlights.clear_kind(trace, layer, head) for layer, head in table.index}
    for layer in range(trace.config["n_layers"]):
        of_layer = [clear[layer, head] for head in range(trace.config["n_heads"])]
        assert of_layer == clear_kinds(trace["pattern", layer], trace.tokens.ids)
    found = {head.clear.kind: head for head in highlights.strongest_heads(trace)}
    assert found.keys() == {kind.kind for kind in clear.values() if kind is not None}
    for kind, (layer, head, of_head) in found.items():
        assert clear[layer, head] == of_head
        rivals = [place for place, other in clear.items() if other is not None and other.kind == kind]
        assert of_head.score == table.loc[rivals, kind].max()


def test_the_heads_of_story_gpt_on_the_apps_text(story):
    heads = highlights.strongest_heads(story.run(TEXT))
    assert [(head.clear.kind, head.layer, head.head) for head in heads[:2]] == [
        ("induction", 5, 2),
        ("previous_token", 2, 5),
    ]
    assert [head.clear.score for head in heads[:2]] == pytest.approx([0.655, 0.544], abs=2e-3)


def test_an_untrained_model_has_no_clear_head(story):
    assert highlights.strongest_heads(untrained_twin(story).run(TEXT)) == []


# --- where a head looks ---------------------------------------------------------------------------


def test_the_key_with_most_weight(engine):
    trace = engine.run(TEXT)
    for layer, head in np.ndindex(trace.config["n_layers"], trace.config["n_heads"]):
        for position in (0, 5, len(trace) - 1):
            found = highlights.most_attended(trace, layer, head, position)
            weights = trace["pattern", layer][head, position].tolist()
            assert found.weight == max(weights)
            assert found.position == weights.index(max(weights)) <= position
            assert found.token == trace.tokens.strings[found.position]


# --- the answer's depth ---------------------------------------------------------------------------


def first_guesses(trace):
    """The most probable token at every point of the stream at the last position, by the model's own modules."""
    points = stream_points(trace.config["n_layers"])
    stream = torch.tensor(np.stack([trace[point.name, point.layer][-1] for point in points]))
    with torch.inference_mode():
        model = trace.engine._model
        return model.out_head(model.final_norm(stream)).argmax(dim=-1).tolist()


@pytest.mark.parametrize("text", TEXTS)
def test_from_the_answers_depth_on_every_point_gives_the_answer(engine, text):
    trace = engine.run(text)
    guesses, depth = first_guesses(trace), highlights.answer_depth(trace)
    assert depth.token == trace.top_k(k=1)["token"][0]
    assert depth.id == guesses[-1]
    assert set(guesses[depth.point :]) == {depth.id}
    assert depth.point == 0 or guesses[depth.point - 1] != depth.id
    assert depth.label == stream_points(trace.config["n_layers"])[depth.point].label


def test_an_answer_that_is_lost_in_between_counts_from_where_it_stays():
    engine = tiny_engine(vocab_size=8)  # so few tokens that the first guess often comes back
    lost = 0
    for ids in np.random.default_rng(0).integers(0, 8, size=(40, 5)):
        trace = engine.run(engine.tokenizer.tokens(ids.tolist()))
        guesses, depth = first_guesses(trace), highlights.answer_depth(trace)
        assert set(guesses[depth.point :]) == {guesses[-1]}
        assert depth.point == 0 or guesses[depth.point - 1] != guesses[-1]
        lost += guesses[-1] in guesses[: depth.point]
    assert lost > 0


def test_the_answers_depth_takes_one_row_of_the_output_head_per_point(tiny, monkeypatch):
    trace, rows = tiny.run(TEXT), []
    unembed = tiny.unembed
    monkeypatch.setattr(tiny, "unembed", lambda stream: rows.append(len(stream)) or unembed(stream))
    highlights.answer_depth(trace)
    assert sum(rows) == len(stream_points(3))


def test_an_answer_that_is_there_from_the_start_has_depth_0():
    model = tiny_model()
    with torch.no_grad():
        for block in model.trf_blocks:
            for projection in (block.att.out_proj, block.ff.layers[2]):
                projection.weight.zero_()
                projection.bias.zero_()
    trace = Engine(model, TINY, device="cpu").run(TEXT)
    assert highlights.answer_depth(trace)[2:] == (0, "embeddings")


# --- the most surprising token --------------------------------------------------------------------


@pytest.mark.parametrize("text", [text for text in TEXTS if text != "A"])
def test_no_token_is_more_surprising_than_the_most_surprising(engine, text):
    trace = engine.run(text)
    logits = trace["logits"].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    of_tokens = [logs[position - 1, trace.tokens.ids[position]] for position in range(1, len(trace))]
    found = highlights.most_surprising(prediction_table(trace))
    assert found.position == 1 + int(np.argmin(of_tokens))
    assert found.token == trace.tokens.strings[found.position]
    assert found.surprisal_bits == pytest.approx(-min(of_tokens) / np.log(2))
    assert found.probability == pytest.approx(np.exp(min(of_tokens)))


def test_a_single_token_surprises_nobody(tiny):
    assert highlights.most_surprising(prediction_table(tiny.run("A"))) is None


# --- the answer's writer --------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_the_answers_writer_is_the_first_head_of_the_attribution(engine, text):
    trace = engine.run(text)
    (guess,) = trace.top_k(k=1).itertuples()
    table = attribute_logit(trace, len(trace) - 1, guess.id)
    heads = table[table["kind"] == "head"].sort_values("contribution", ascending=False)
    first, found = heads.iloc[0], highlights.answer_writer(trace)
    if first["contribution"] <= 0:
        assert found is None
        return
    assert (found.layer, found.head, found.token, found.id) == (first["layer"], first["head"], guess.token, guess.id)
    assert found.contribution == pytest.approx(first["contribution"], abs=1e-12)
    assert found.logit == pytest.approx(guess.logit)
    assert found.logit == pytest.approx(table["contribution"].sum(), abs=1e-3)


def test_without_a_head_that_raises_the_logit_nobody_wrote_the_answer():
    engine = tiny_engine(n_layers=1, n_heads=1)
    contributions = []
    for id in range(30):
        trace = engine.run(engine.tokenizer.tokens([id, id + 1]))
        table = attribute_logit(trace, 1, int(trace.logits_at(1).argmax())).set_index("part")
        contributions.append(table.loc["L0H0", "contribution"])
        assert (highlights.answer_writer(trace) is None) == (contributions[-1] <= 0)
    assert min(contributions) < 0 < max(contributions)


def test_heads_that_are_off_write_nothing(tiny):
    off = [Part("head", layer, head) for layer in range(3) for head in range(4)]
    assert highlights.answer_writer(tiny.run(TEXT, off=off)) is None


# --- numbers that are not finite ------------------------------------------------------------------


def test_a_model_whose_numbers_overflow_has_no_highlights():
    model = tiny_model()
    with torch.no_grad():
        model.trf_blocks[0].ff.layers[0].weight.mul_(1e30)
        model.trf_blocks[0].ff.layers[2].weight.mul_(1e30)
    trace = Engine(model, TINY, device="cpu").run(TEXT)
    assert np.isnan(trace["pattern", 1]).all()
    assert all(head.layer == 0 for head in highlights.strongest_heads(trace))
    assert highlights.answer_depth(trace) is None
    assert highlights.answer_writer(trace) is None
    assert highlights.most_surprising(prediction_table(trace)) is None
