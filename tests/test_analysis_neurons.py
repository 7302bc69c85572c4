import numpy as np
import pytest

from gptviz.analysis.neurons import neuron_effect, strongest_neurons


def test_the_neurons_that_fire_most():
    post = np.array([[0.0, 5.0, -0.1, 2.0], [1.0, 9.0, 3.0, 2.0], [2.0, 7.0, 0.0, 1.0]])
    table = strongest_neurons(post, 0, k=3)
    assert table["neuron"].tolist() == [1, 3, 0]
    assert table["activation"].tolist() == [5, 2, 0]
    assert table["share_below"].tolist() == [0, 0.5, 0]
    assert strongest_neurons(post, -1, k=1)["neuron"].tolist() == [1]


def test_a_text_of_one_token_has_no_others():
    table = strongest_neurons(np.array([[1.0, 2.0]]), 0, k=5)
    assert table["neuron"].tolist() == [1, 0]
    assert table["share_below"].isna().all()


def test_an_mlp_is_the_sum_of_its_neurons_effects(tiny):
    """The sum of activations times effects, plus the bias, is the MLP's effect on the logits."""
    trace = tiny.run("the cat")
    effects = neuron_effect(tiny.weights, 1, np.arange(64), scale=2.0)
    reader = tiny.weights["final_norm.scale"] * tiny.weights["out_head.weight"]  # [vocab_size, emb_dim]
    written = trace["mlp_out", 1][1] - tiny.weights["trf_blocks.1.ff.layers.2.bias"]
    expected = reader @ (written - written.mean()) / 2.0
    np.testing.assert_allclose(trace["post", 1][1] @ effects, expected, atol=1e-4)


@pytest.mark.parametrize("neuron", [0, 63])
def test_one_neuron_writes_its_column(tiny, neuron):
    column = tiny.weights["trf_blocks.0.ff.layers.2.weight"][:, neuron]
    centred = tiny.weights["final_norm.scale"] * (column - column.mean())
    np.testing.assert_allclose(
        neuron_effect(tiny.weights, 0, [neuron])[0], tiny.weights["out_head.weight"] @ centred, atol=1e-5
    )
