from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import patience
import pytest
import torch
from tiny import tiny_engine, tiny_model

from gptviz import ContextLengthError, EmptyTextError, Engine, WeightsError
from gptviz.numerics.sampling import next_token_probabilities
from gptviz.tokens import END_OF_TEXT_ID

TEXT = "Once upon a time there was a"


def test_an_engine_tells_its_config_and_tokenizes(tiny):
    assert tiny.config["n_layers"] == 3
    assert tiny.tokenize("the cat").ids == (1169, 3797)
    assert tiny.tokenize("the cat", bos=True).ids == (END_OF_TEXT_ID, 1169, 3797)
    assert tiny.tokenizer.vocab_size == 50257
    assert not tiny.tied_head
    assert tiny_engine(tied_head=True).tied_head


def test_a_run_keeps_the_tokens(tiny):
    trace = tiny.run("the cat", bos=True)
    assert trace.tokens.strings == ("<|endoftext|>", "the", "␣cat")
    assert len(trace) == 3


def test_tokens_that_are_cut_already_run_as_they_are(tiny):
    tokens = tiny.tokenizer.tokens([262, 262, 3797])
    assert tiny.run(tokens).tokens.ids == (262, 262, 3797)


def test_top_k_is_the_softmax_of_the_last_logits(tiny):
    trace = tiny.run(TEXT)
    logits = trace["logits"][-1].astype(np.float64)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    expected = sorted(range(50257), key=lambda at: -logits[at])[:10]
    table = trace.top_k()
    assert list(table.columns) == ["token", "id", "logit", "probability"]
    assert table["id"].tolist() == expected
    assert table["token"].tolist() == list(tiny.tokenizer.tokens(expected).strings)
    np.testing.assert_allclose(table["logit"], logits[expected], atol=1e-5)
    np.testing.assert_allclose(table["probability"], probabilities[expected], rtol=1e-4)


def test_top_k_of_another_position_and_number(tiny):
    trace = tiny.run(TEXT)
    for position in (0, 2, -2):
        table = trace.top_k(position, k=3)
        assert table["id"].tolist() == np.argsort(-trace["logits"][position], kind="stable")[:3].tolist()
    assert len(trace.top_k(k=60_000)) == 50257
    with pytest.raises(IndexError):
        trace.top_k(99)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_temperature_changes_probabilities_and_not_logits(tiny, temperature):
    trace = tiny.run(TEXT)
    table = trace.top_k(temperature=temperature)
    logits = trace.logits_at(-1).astype(np.float64) / temperature
    shares = np.exp(logits - logits.max())
    assert table["logit"].tolist() == trace.top_k()["logit"].tolist()
    np.testing.assert_allclose(table["probability"], shares[table["id"]] / shares.sum(), rtol=1e-6)


def test_temperature_0_is_certain_of_the_first(tiny):
    assert tiny.run(TEXT).top_k(k=3, temperature=0)["probability"].tolist() == [1, 0, 0]


def uncached(engine, text, n_tokens):
    """Generate greedily with one full run per token, on the window that fits into the model's context."""
    ids = list(engine.tokenize(text).ids)
    for _ in range(n_tokens):
        window = engine.tokenizer.tokens(ids[-engine.config["context_length"] :])
        ids.append(int(np.argmax(engine.run(window).logits_at(-1))))
    return ids[-n_tokens:]


@pytest.mark.parametrize("text", [TEXT, "a", TEXT * 4])
def test_greedy_generation_equals_full_runs_also_past_the_context(tiny, text):
    n_tokens = 40
    assert len(tiny.tokenize(text)) <= tiny.config["context_length"] < len(tiny.tokenize(text)) + n_tokens
    generated = [token.id for token in tiny.generate(text, n_tokens)]
    assert generated == uncached(tiny, text, n_tokens)
    assert len(set(generated)) > 5, "a sequence that repeats one token would hide a stale cache"


def test_greedy_generation_of_the_bundled_model_equals_full_runs(story):
    assert [token.id for token in story.generate(TEXT, 24)] == uncached(story, TEXT, 24)


@pytest.mark.parametrize("filters", [{}, {"top_k": 40}, {"top_p": 0.5}, {"top_k": 40, "top_p": 0.9}])
def test_sampled_tokens_have_the_probability_of_a_full_run(tiny, filters):
    ids = list(tiny.tokenize(TEXT).ids)
    for token in tiny.generate(TEXT, 30, temperature=1.5, seed=1, **filters):
        logits = tiny.run(tiny.tokenizer.tokens(ids[-32:])).logits_at(-1)
        expected = next_token_probabilities(logits, temperature=1.5, **filters)
        assert token.probability == pytest.approx(expected[token.id], rel=1e-3)
        assert token.probability > 0
        assert (token.bytes, token.string) == tiny.tokenizer.tokens([token.id])[0][1:]
        ids.append(token.id)


def test_a_seed_repeats_a_draw_and_another_makes_another(tiny):
    def draw(**switches):
        return [token.id for token in tiny.generate(TEXT, 20, temperature=2.0, **switches)]

    assert draw(seed=7) == draw(seed=7)
    assert draw(seed=7) != draw(seed=8)
    assert draw() != draw()


def engine_that_ends():
    """Return an engine that predicts `<|endoftext|>` after any text."""
    model = tiny_model(tied_head=False)
    model.final_norm.scale.zero_()
    model.final_norm.shift.fill_(1.0)
    model.out_head.weight[END_OF_TEXT_ID] = 100.0
    return Engine(model, tiny_engine().config, device="cpu")


def engine_that_breaks(at):
    """Return an engine whose numbers are NaN from position `at` on."""
    model = tiny_model()
    model.pos_emb.weight[at:] = torch.nan
    return Engine(model, tiny_engine().config, device="cpu")


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 0}, {"temperature": 1.0, "top_k": 5, "top_p": 0.5}])
def test_generation_says_where_the_numbers_are_none(how):
    written = engine_that_breaks(9).generate(" the" * 7, 5, **how)
    assert len([next(written), next(written), next(written)]) == 3
    with pytest.raises(WeightsError, match=r"^The model's numbers are broken: after 10 tokens its logits are NaN"):
        next(written)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_generation_tells_infinite_logits(value):
    model = tiny_model()
    model.out_head.weight.fill_(value)
    model.final_norm.scale.zero_()
    model.final_norm.shift.fill_(1.0)
    engine = Engine(model, tiny_engine().config, device="cpu")
    with pytest.raises(WeightsError, match="its logits are NaN or infinite"):
        next(engine.generate("a", 1))


def test_generation_stops_after_end_of_text():
    generated = list(engine_that_ends().generate("a", 10))
    assert [(token.id, token.string) for token in generated] == [(END_OF_TEXT_ID, "<|endoftext|>")]


@pytest.mark.parametrize("n_tokens", [0, 1, 3])
def test_generation_stops_after_the_number_asked_for(tiny, n_tokens):
    assert len(list(tiny.generate("a", n_tokens))) == n_tokens


@pytest.mark.parametrize("act", [Engine.run, lambda engine, text: engine.generate(text, 1)])
def test_texts_that_do_not_fit_raise_at_once(tiny, act):
    with pytest.raises(EmptyTextError, match=r"empty: type something, or put <\|endoftext\|> in front"):
        act(tiny, "")
    with pytest.raises(ContextLengthError, match="has 33 tokens, and the model takes at most 32"):
        act(tiny, " a" * 33)
    act(tiny, " a" * 32)


def test_the_beginning_token_counts_against_the_context(tiny):
    with pytest.raises(ContextLengthError, match="33 tokens"):
        tiny.run(" a" * 32, bos=True)


def test_an_empty_text_runs_with_a_beginning_token(tiny):
    assert tiny.run("", bos=True).top_k().shape == (10, 4)


def test_an_id_past_the_models_vocabulary_is_a_sentence():
    engine = tiny_engine(vocab_size=1000)
    with pytest.raises(WeightsError, match="token id 3797, and the model knows ids below 1000"):
        engine.run("the cat")
    assert engine.run("a b").logits_at(-1).shape == (1000,)


def test_a_vocabulary_with_added_tokens_runs():
    engine = tiny_engine(vocab_size=50260)
    table = engine.run(TEXT).top_k(k=50260)
    assert set(table["token"][table["id"] >= 50257]) == {"<id_50257>", "<id_50258>", "<id_50259>"}


def test_16_threads_get_what_each_gets_alone(tiny):
    texts = [f"{' the' * at} cat number {at}" for at in range(16)]
    alone = [everything(tiny, text) for text in texts]
    together = Barrier(16)

    def at_once(text):
        together.wait(patience.SECONDS)
        return everything(tiny, text)

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(at_once, texts))
    for expected, result in zip(alone, results, strict=True):
        assert len(expected) == len(result)
        for one, other in zip(expected, result, strict=True):
            np.testing.assert_array_equal(one, other)


def everything(engine, text):
    trace = engine.run(text, keep=["mlp_out"])
    derived = [trace[name, layer] for layer in range(3) for name in ("resid_post", "mlp_out", "q", "pattern")]
    generated = [token.id for token in engine.generate(text, 8)]
    return [*derived, trace["embed"], trace["final_norm_out"], trace.logits_at(0), trace.logits_at(-1), generated]


def test_a_generation_is_not_disturbed_by_runs_between_its_tokens(tiny):
    expected = [token.id for token in tiny.generate(TEXT, 10)]
    found = []
    for token in tiny.generate(TEXT, 10):
        found.append(token.id)
        tiny.run("something else")["pattern", 0]
        next(tiny.generate("another", 1))
    assert found == expected


def test_unembed_takes_any_real_array(tiny):
    stream = tiny.run(TEXT)["resid_post", 2]
    expected = tiny.run(TEXT)["logits"]
    np.testing.assert_allclose(tiny.unembed(stream.astype(np.float64)), expected, atol=1e-4)
    np.testing.assert_allclose(tiny.unembed(stream[::-1]), expected[::-1], atol=1e-4)


def test_a_weight_is_read_only_and_an_unknown_one_a_key_error(tiny):
    weight = tiny.weights["trf_blocks.0.att.W_query.weight"]
    assert weight.shape == (16, 16)
    assert not weight.flags.writeable
    assert tiny.weights["out_head.weight"].shape == (50257, 16)
    with pytest.raises(KeyError, match=r"known are: tok_emb\.weight"):
        tiny.weights["wte.weight"]


def test_a_tied_head_is_a_weight_under_both_names():
    engine = tiny_engine(tied_head=True)
    assert np.shares_memory(engine.weights["out_head.weight"], engine.weights["tok_emb.weight"])


def test_a_model_in_training_mode_runs_without_dropout():
    model = tiny_model().train()
    engine = Engine(model, tiny_engine().config, device="cpu")
    assert np.array_equal(engine.run(TEXT).logits_at(-1), engine.run(TEXT).logits_at(-1))
    assert np.array_equal(engine.run(TEXT).logits_at(-1), tiny_engine().run(TEXT).logits_at(-1))


def test_running_leaves_no_graph_behind(tiny):
    tiny.run(TEXT)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
