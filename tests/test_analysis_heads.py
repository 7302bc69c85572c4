import numpy as np
import pytest
import torch
from tiny import tiny_engine

from gptviz.analysis import heads
from gptviz.analysis.attribution import attribute_logit, frozen_scale

# a b c a b a a: every kind of head has somewhere to look
IDS = (7, 8, 9, 7, 8, 7, 7)


def looking_at(keys):
    """A pattern [1, query, key] with all of query q's weight on keys[q]."""
    return np.eye(len(keys), dtype=np.float32)[list(keys)][None]


def uniform(n_tokens):
    """Every query looks at all it may look at alike."""
    return (np.tri(n_tokens) / np.arange(1, n_tokens + 1)[:, None])[None]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("previous_token", [0, 0, 1, 2, 3, 4, 5]),
        ("current_token", [0, 1, 2, 3, 4, 5, 6]),
        ("first_token", [0, 0, 0, 0, 0, 0, 0]),
        ("duplicate_token", [0, 0, 0, 0, 1, 3, 5]),
        ("induction", [0, 0, 0, 1, 2, 4, 6]),
    ],
)
def test_a_perfect_head_of_a_kind_scores_1(kind, keys):
    assert heads.head_scores(looking_at(keys), IDS)[kind][0] == pytest.approx(1)


def test_targets_on_a_text_with_repeats():
    assert np.argwhere(heads.duplicate_token_targets(IDS)).tolist() == [
        [3, 0], [4, 1], [5, 0], [5, 3], [6, 0], [6, 3], [6, 5],
    ]  # fmt: skip
    # After the copy; the second of two equal neighbours stands after a copy of itself.
    assert np.argwhere(heads.induction_targets(IDS)).tolist() == [
        [3, 1], [4, 2], [5, 1], [5, 4], [6, 1], [6, 4], [6, 6],
    ]  # fmt: skip
    assert np.argwhere(heads.previous_token_targets(3)).tolist() == [[1, 0], [2, 1]]
    assert np.argwhere(heads.first_token_targets(3)).tolist() == [[1, 0], [2, 0]]


def test_a_score_is_the_mean_over_the_queries_with_a_target():
    pattern = np.array([[[1, 0, 0], [0.25, 0.75, 0], [0.2, 0.6, 0.2]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]])
    table = heads.head_scores(pattern, (5, 6, 5))
    assert table["head"].tolist() == [0, 1]
    assert table["previous_token"].tolist() == pytest.approx([(0.25 + 0.6) / 2, 0.5])
    assert table["current_token"].tolist() == pytest.approx([(1 + 0.75 + 0.2) / 3, 1 / 3])
    assert table["first_token"].tolist() == pytest.approx([(0.25 + 0.2) / 2, 1])
    assert table["duplicate_token"].tolist() == pytest.approx([0.2, 1])
    assert table["induction"].tolist() == pytest.approx([0.6, 0])
    assert table["distance"].tolist() == pytest.approx([(0.25 + 0.6 + 0.4) / 3, 1])


def test_a_text_without_repeats_and_a_single_token_have_no_such_scores():
    table = heads.head_scores(uniform(4), (1, 2, 3, 4))
    assert table[["duplicate_token", "induction"]].isna().all(axis=None)
    one = heads.head_scores(uniform(1), (1,))
    assert one["current_token"][0] == 1
    assert one["distance"][0] == 0
    assert one[["previous_token", "first_token", "duplicate_token", "induction", "entropy"]].isna().all(axis=None)


def test_entropy_from_one_key_to_all_alike():
    assert heads.entropies(uniform(4))[0] == pytest.approx(np.log([1, 2, 3, 4]))
    assert heads.entropies(looking_at([0, 0, 1]))[0].tolist() == [0, 0, 0]
    assert heads.entropy_share(uniform(5)) == pytest.approx([1])
    assert heads.entropy_share(looking_at([0, 0, 1])) == pytest.approx([0])
    half = np.array([[[1, 0, 0, 0], [0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.5, 0, 0.5, 0]]])
    assert heads.entropy_share(half) == pytest.approx([(1 + 0 + 0.5) / 3])


def test_all_heads_of_a_model_one_row_each(tiny):
    trace = tiny.run("a b c a b c a")
    table = heads.all_head_scores(trace)
    assert list(zip(table["layer"], table["head"], strict=True)) == list(np.ndindex(3, 4))
    second = heads.head_scores(trace["pattern", 2], trace.tokens.ids)
    assert table[table["layer"] == 2]["induction"].tolist() == second["induction"].tolist()


def test_random_ids_are_repeated_once_and_seeded():
    ids = heads.repeated_random_ids(50, below=60, seed=3)
    assert ids[:50] == ids[50:]
    assert len(set(ids)) == 50
    assert set(ids) <= set(range(60))
    assert heads.repeated_random_ids(50, below=60, seed=3) == ids
    assert heads.repeated_random_ids(50, below=60, seed=4) != ids
    assert all(isinstance(id, int) for id in ids)
    with pytest.raises(ValueError, match="no 61 different ids below 60: ask for fewer"):
        heads.repeated_random_ids(61, below=60)


def test_each_query_of_the_second_half_has_one_induction_target():
    targets = heads.induction_targets(heads.repeated_random_ids(20))
    assert np.argwhere(targets).tolist() == [[query, query - 19] for query in range(20, 40)]


def test_without_the_first_the_rest_sums_to_1_again():
    pattern = np.array([[[1, 0, 0], [0.8, 0.2, 0], [0.6, 0.1, 0.3]]])
    read = heads.without_first(pattern)
    assert np.isnan(read[0, 0]).all()
    np.testing.assert_allclose(read[0, 1:], [[0, 1, 0], [0, 0.25, 0.75]])
    assert pattern[0, 1, 0] == 0.8


def test_a_row_with_nothing_but_the_first_has_no_other_reading():
    assert np.isnan(heads.without_first(looking_at([0, 0, 1]))[0, :2]).all()


def test_value_weighted_patterns_are_lengths_of_what_is_moved(tiny):
    trace = tiny.run("the cat sat on the mat")
    out_proj = tiny.weight("trf_blocks.1.att.out_proj.weight")
    weighted = heads.value_weighted(trace["pattern", 1], trace["v", 1], out_proj)
    for head, query, key in [(0, 0, 0), (2, 5, 3), (3, 4, 4), (1, 2, 5)]:
        moved = out_proj[:, head * 4 : (head + 1) * 4] @ trace["v", 1][key, head]
        expected = trace["pattern", 1][head, query, key] * np.sqrt((moved**2).sum())
        assert weighted[head, query, key] == pytest.approx(expected, rel=1e-5)


def test_rollout_of_known_patterns():
    first = looking_at([0, 0, 1])  # with the shortcut, half stays
    np.testing.assert_allclose(heads.rollout([first]), [[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
    np.testing.assert_allclose(heads.rollout([first, first])[2], [0.25, 0.5, 0.25])
    both = np.concatenate([first, looking_at([0, 1, 2])])  # two heads: their mean
    np.testing.assert_allclose(heads.rollout([both])[1], [0.25, 0.75, 0])


def test_rollout_multiplies_later_layers_from_the_left(tiny):
    trace = tiny.run("the cat sat on the mat")
    matrices = [(trace["pattern", layer].mean(axis=0) + np.eye(6)) / 2 for layer in range(3)]
    rolled = heads.rollout(trace["pattern", layer] for layer in range(3))
    np.testing.assert_allclose(rolled, matrices[2] @ matrices[1] @ matrices[0], atol=1e-6)
    np.testing.assert_allclose(rolled.sum(axis=-1), 1, atol=1e-6)


def test_rollout_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="one layer at least"):
        heads.rollout([])


def test_the_ov_circuit_is_the_heads_contribution_to_the_logits(tiny):
    """Weights times what each key would give is what the head gave: summed over keys, its attribution."""
    trace, layer, head, query = tiny.run("the cat sat on the mat"), 1, 2, 4
    scale = float(frozen_scale(trace["resid_post", 2][query]))
    effects = np.stack([heads.ov_effect(tiny, layer, head, trace["v", layer][key, head], scale) for key in range(6)])
    total = trace["pattern", layer][head, query] @ effects
    for token in (257, 5):
        table = attribute_logit(trace, tiny, query, token).set_index("part")["contribution"]
        assert total[token] == pytest.approx(table["L1H2"], abs=1e-4)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_the_value_of_a_bare_token_is_the_models_own(qkv_bias):
    engine = tiny_engine(qkv_bias=qkv_bias)
    block = engine._model.trf_blocks[1]
    with torch.inference_mode():
        v = block.att.W_value(block.norm1(engine._model.tok_emb(torch.tensor([[464]]))))[0, 0].numpy()
    for head in range(4):
        value = heads.value_of_token(engine, 1, head, 464)
        np.testing.assert_allclose(value, v[head * 4 : (head + 1) * 4], atol=1e-5)
