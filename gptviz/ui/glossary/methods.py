"""Words for what is done with a model: readings of its numbers, and experiments."""

from .term import Term

_ELHAGE = 'Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"'
_MENG = 'Meng et al. 2022, "Locating and Editing Factual Associations in GPT"'
_WANG = 'Wang et al. 2022, "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small"'

METHODS = (
    Term(
        "Ablation",
        "A part of the model is switched off, to see what it was good for. Its output becomes zero (zero ablation) or "
        "its mean over the text's positions (mean ablation).",
        r"z_i \to 0 \quad \text{or} \quad z_i \to \frac{1}{n} \sum_{j=0}^{n-1} z_j",
        'Michel et al. 2019, "Are Sixteen Heads Really Better than One?"',
        "ablation",
    ),
    Term(
        "Activation patching",
        "One activation of the corrupted run is replaced by the clean run's. How much of the logit difference d comes "
        "back says how much that activation matters.",
        r"\mathrm{recovered} = "
        r"\frac{d_\mathrm{patched} - d_\mathrm{corrupted}}{d_\mathrm{clean} - d_\mathrm{corrupted}}",
        _MENG,
        "patching",
    ),
    Term(
        "Attention sink",
        "The first position, when heads that find nothing to gather put most of their attention there. The score is "
        "a head's mean attention weight on it.",
        r"\frac{1}{n - 1} \sum_{i=1}^{n-1} A_{i0}",
        'Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"',
        "attention",
    ),
    Term(
        "Clean run",
        "In activation patching, the run on the prompt whose answer is to come back.",
        source=_MENG,
        page="patching",
    ),
    Term(
        "Corrupted run",
        "In activation patching, the run that is patched. Its prompt has as many tokens as the clean one, but calls "
        "for another answer.",
        source=_MENG,
        page="patching",
    ),
    Term(
        "Cosine similarity",
        "How nearly two vectors point the same way, whatever their lengths: 1 is the same direction, 0 a right angle, "
        "-1 the opposite.",
        r"\cos(a, b) = \frac{a \cdot b}{\lVert a \rVert \, \lVert b \rVert}",
        page="embeddings",
    ),
    Term(
        "Direct logit attribution",
        "A logit as the sum of what each part wrote of it, where c is what the part added to the residual stream and σ "
        "the final LayerNorm's divisor, held fixed. What a part does through later parts counts as theirs.",
        r"\mathrm{logit}_t = \beta \cdot W_U[t] "
        r"+ \sum_c \frac{\gamma \odot (c - \mathrm{mean}(c))}{\sigma} \cdot W_U[t]",
        _ELHAGE,
        "residual",
    ),
    Term(
        "Duplicate-token head",
        "A head that looks at earlier copies of the same token. The score is its mean attention weight on them.",
        r"\frac{1}{|Q|} \sum_{i \in Q} \; \sum_{j < i, \; t_j = t_i} A_{ij}, "
        r"\qquad Q = \{ i : t_i \text{ has occurred before} \}",
        _WANG,
        "attention",
    ),
    Term(
        "Gradient",
        "The slope of a number, such as the loss, with respect to each of many others, such as the parameters θ. "
        "Training goes a small step against it, again and again.",
        r"\nabla_\theta L = \left( \frac{\partial L}{\partial \theta_1}, \frac{\partial L}{\partial \theta_2}, "
        r"\ldots \right)",
        'Rumelhart et al. 1986, "Learning Representations by Back-propagating Errors"',
        "gradients",
    ),
    Term(
        "Gradient × input",
        "A saliency: the gradient of a prediction's log-probability times the token's embedding e. It is a rough "
        "measure, and does not add up to anything.",
        r"c_i = e_i \cdot \nabla_{e_i} \ln p_t",
        "Shrikumar et al. 2016, "
        '"Not Just a Black Box: Learning Important Features Through Propagating Activation Differences"',
        "gradients",
    ),
    Term(
        "Induction head",
        "A head that looks at what followed an earlier copy of the token, and so continues what was said before. "
        "The score is its mean attention weight there.",
        r"\frac{1}{|Q|} \sum_{i \in Q} \; \sum_{j \le i, \; t_{j-1} = t_i} A_{ij}, "
        r"\qquad Q = \{ i : t_i \text{ has occurred before} \}",
        'Olsson et al. 2022, "In-context Learning and Induction Heads"',
        "attention",
    ),
    Term(
        "Integrated gradients",
        "A saliency that adds up: the mean gradient on the way from no token embeddings to the text's embeddings e, "
        "times these. The sum is the whole change of the log-probability.",
        r"c_i = e_i \cdot \int_0^1 \left( \nabla_{e_i} \ln p_t \right)(\alpha e) \; d\alpha",
        'Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks"',
        "gradients",
    ),
    Term(
        "KL divergence",
        "How much a prediction q misses of another, p, in nats. It is 0 only if they are the same, never negative, and "
        "not the same the other way round.",
        r"\mathrm{KL}(p \, \| \, q) = \sum_t p_t \ln \frac{p_t}{q_t}",
        'Kullback and Leibler 1951, "On Information and Sufficiency"',
        "compare",
    ),
    Term(
        "Logit difference",
        "The logit of one token minus that of another. It says which of two answers the model prefers, and by how "
        "much.",
        r"d = \mathrm{logit}_\mathrm{answer} - \mathrm{logit}_\mathrm{rival}",
        _WANG,
        "patching",
    ),
    Term(
        "Logit lens",
        "What the model would predict if it stopped at a layer: the residual stream there goes straight through the "
        "final LayerNorm and the output head.",
        r"\mathrm{softmax}\left( W_U \, \mathrm{LN}(x^{(l)}) \right)",
        'nostalgebraist 2020, "interpreting GPT: the logit lens"',
        "residual",
    ),
    Term(
        "OV circuit",
        "What a head writes to the residual stream when it looks at a token: the token's vector through the value "
        "matrix and the output projection.",
        r"W_{OV}^h = W_O^h W_V^h",
        _ELHAGE,
        "attention",
    ),
    Term(
        "Previous-token head",
        "A head that looks at the token just before. The score is its mean attention weight there.",
        r"\frac{1}{n - 1} \sum_{i=1}^{n-1} A_{i,i-1}",
        _ELHAGE,
        "attention",
    ),
    Term(
        "Principal components",
        "The perpendicular directions in which a set of vectors, the rows of X, varies most. They make a picture of "
        "many dimensions in two or three.",
        r"X - \bar{X} = U S V^\top, \qquad \text{coordinates } U S",
        'Pearson 1901, "On Lines and Planes of Closest Fit to Systems of Points in Space"',
        "embeddings",
    ),
    Term(
        "Rollout",
        "Where the information at a position came from, through all layers up to one: the heads' mean attention and "
        "the shortcut, half each, multiplied layer by layer.",
        r"R^{(l)} = \frac{1}{2} \left( \bar{A}^{(l)} + I \right) R^{(l-1)}, \qquad R^{(-1)} = I",
        'Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers"',
        "attention",
    ),
    Term(
        "Saliency",
        "How much a prediction depends on each token of the text, found from gradients. Gradient × input and "
        "integrated gradients are two ways to measure it.",
        source="Simonyan et al. 2013, "
        '"Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps"',
        page="gradients",
    ),
    Term(
        "Untrained twin",
        "A model of the same shape with random weights. What it lacks is what training brought.",
        page="compare",
    ),
    Term(
        "Value-weighted attention",
        "The attention weight times the length of the vector that it moves into the residual stream. A large weight "
        "on a short value moves little.",
        r"A_{ij}^h \, \lVert W_O^h v_j^h \rVert",
        'Kobayashi et al. 2020, "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms"',
        "attention",
    ),
)
