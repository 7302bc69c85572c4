import pytest

from gptviz.analysis.stream import similarity_of_tokens
from gptviz.experiments.gradients import GROUPS, all_shortcuts, gradient_norms, gradient_table
from gptviz.experiments.skeleton import untrained_twin
from gptviz.interventions import Part


def test_norms_of_a_group_add_as_squares():
    norms = {
        "tok_emb.weight": 2.0,
        "trf_blocks.0.att.W_query.weight": 3.0,
        "trf_blocks.0.att.out_proj.bias": 4.0,
        "trf_blocks.0.norm1.scale": 1.0,
        "trf_blocks.10.ff.layers.2.weight": 7.0,
        "final_norm.shift": 0.5,
    }
    rows = {(row.layer, row.group): row.norm for row in gradient_table(norms).dropna().itertuples()}
    assert rows == {(0, "att"): 5.0, (0, "norm1"): 1.0, (10, "ff"): 7.0}
    outside = gradient_table(norms)[lambda table: table["layer"].isna()].set_index("group")["norm"]
    assert outside.to_dict() == {"tok_emb": 2.0, "final_norm": 0.5}


def test_every_block_has_every_group(tiny):
    _, norms = gradient_norms(tiny, tiny.tokenize("the cat sat on"))
    table = gradient_table(norms).dropna()
    assert len(table) == 3 * len(GROUPS)
    assert set(table["group"]) == set(GROUPS)
    whole = sum(norm**2 for norm in norms.values())
    assert (gradient_table(norms)["norm"] ** 2).sum() == pytest.approx(whole)


def test_shortcuts_of_all_blocks():
    assert all_shortcuts(2) == (Part("shortcut1", 0), Part("shortcut2", 0), Part("shortcut1", 1), Part("shortcut2", 1))


def test_without_shortcuts_all_tokens_become_the_same(story):
    """What the shortcuts keep is what sets tokens apart. The gradient's length they need not keep: LayerNorm does."""
    for engine in (story, untrained_twin(story)):
        tokens = engine.tokenize("Once upon a time there was a little dog. The little dog")
        off = all_shortcuts(engine.config["n_layers"])
        assert similarity_of_tokens(engine.run(tokens))[-1] < 0.5
        assert similarity_of_tokens(engine.run(tokens, off=off))[-1] > 0.98
        with_them, without = (
            gradient_table(gradient_norms(engine, tokens, off=parts)[1])
            .query("group == 'att' and layer.notna()")["norm"]
            .to_numpy(dtype=float)
            for parts in ((), off)
        )
        assert with_them[0] / with_them[-1] > 1
        assert 0.3 < without[0] / without[-1] < 5
