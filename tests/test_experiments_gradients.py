import pytest

from gptviz.analysis.stream import similarity_of_tokens
from gptviz.experiments import gradients
from gptviz.experiments.gradients import all_shortcuts, gradient_norms, gradient_table
from gptviz.experiments.skeleton import untrained_twin
from gptviz.interventions import Part

GROUPS = {"att", "ff", "norm1", "norm2"}


def test_norms_of_a_group_add_as_squares(tiny, monkeypatch):
    norms = {
        "tok_emb.weight": 2.0,
        "trf_blocks.0.att.W_query.weight": 3.0,
        "trf_blocks.0.att.out_proj.bias": 4.0,
        "trf_blocks.0.norm1.scale": 1.0,
        "trf_blocks.10.ff.layers.2.weight": 7.0,
        "final_norm.shift": 0.5,
    }
    monkeypatch.setattr(gradients, "gradient_norms", lambda *_, **__: (1.5, norms))
    table = gradient_table(tiny, tiny.tokenize("the cat"))
    rows = {(row.layer, row.group): row.norm for row in table.dropna().itertuples()}
    assert rows == {(0, "att"): 5.0, (0, "norm1"): 1.0, (10, "ff"): 7.0}
    outside = table[table["layer"].isna()].set_index("group")["norm"]
    assert outside.to_dict() == {"tok_emb": 2.0, "final_norm": 0.5}
    assert set(table["loss"]) == {1.5}


def test_every_block_has_every_group(tiny):
    tokens = tiny.tokenize("the cat sat on")
    loss, norms = gradient_norms(tiny, tokens)
    table = gradient_table(tiny, tokens)
    assert len(table.dropna()) == 3 * len(GROUPS)
    assert set(table.dropna()["group"]) == GROUPS
    assert (table["norm"] ** 2).sum() == pytest.approx(sum(norm**2 for norm in norms.values()))
    assert set(table["loss"]) == {loss}


def test_shortcuts_of_all_blocks():
    assert all_shortcuts(2) == (Part("shortcut1", 0), Part("shortcut2", 0), Part("shortcut1", 1), Part("shortcut2", 1))


def test_without_shortcuts_all_tokens_become_the_same(story):
    """Shortcuts keep tokens apart. They need not preserve the gradient's length: LayerNorm does that."""
    for engine in (story, untrained_twin(story)):
        tokens = engine.tokenize("Once upon a time there was a little dog. The little dog")
        off = all_shortcuts(engine.config["n_layers"])
        assert similarity_of_tokens(engine.run(tokens))[-1] < 0.5
        assert similarity_of_tokens(engine.run(tokens, off=off))[-1] > 0.98
        with_them, without = (
            gradient_table(engine, tokens, parts)
            .query("group == 'att' and layer.notna()")["norm"]
            .to_numpy(dtype=float)
            for parts in ((), off)
        )
        assert with_them[0] / with_them[-1] > 1
        assert 0.3 < without[0] / without[-1] < 5
