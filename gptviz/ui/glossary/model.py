"""Words for the model: its text, its parts, its predictions and its training."""

from .term import Term

_ELHAGE = 'Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"'
_GPT2 = 'Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"'
_SHANNON = 'Shannon 1948, "A Mathematical Theory of Communication"'
_VASWANI = 'Vaswani et al. 2017, "Attention Is All You Need"'

MODEL = (
    Term(
        "Attention",
        "The part of a Transformer block that moves information between tokens: each token gathers the values of "
        "itself and of earlier tokens, in the shares that its heads give them.",
        r"b_O + \sum_h W_O^h z_i^h, \qquad z_i^h = \sum_{j \le i} A_{ij}^h \, v_j^h",
        _VASWANI,
        "attention",
    ),
    Term(
        "Attention score",
        "How well a token's query fits another token's key, before mask and softmax.",
        r"s_{ij} = \frac{q_i \cdot k_j}{\sqrt{d_\mathrm{head}}}",
        _VASWANI,
        "attention",
    ),
    Term(
        "Attention weight",
        "The share of its attention that token i gives to token j, from 0 to 1. All the weights of one head are its "
        "attention pattern, in which each row sums to 1.",
        r"A_{ij} = \frac{e^{s_{ij}}}{\sum_{k \le i} e^{s_{ik}}} \quad \text{for } j \le i",
        _VASWANI,
        "attention",
    ),
    Term(
        "Bits",
        "The unit of surprisal and entropy with logarithms to base 2: a token that had a probability of one half has a "
        "surprisal of one bit.",
        r"1 \text{ bit} = \ln 2 \text{ nats} \approx 0.693 \text{ nats}",
        _SHANNON,
        "next_token",
    ),
    Term(
        "Byte-pair encoding",
        "How text is cut into tokens: starting from single bytes, the pair of neighbours that the tokenizer's training "
        "learned earliest is joined, again and again, until no known pair is left.",
        source='Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"',
        page="tokens",
    ),
    Term(
        "Causal mask",
        "What hides the future: the attention score of every later token becomes minus infinity, so its attention "
        "weight is 0.",
        r"s_{ij} \to -\infty \quad \text{for } j > i",
        _VASWANI,
        "block",
    ),
    Term(
        "Dropout",
        "In training, a random share r of the numbers becomes 0, and the rest are scaled up to keep the mean. No part "
        "can then rely on a single other one.",
        r"x \to \begin{cases} 0 & \text{with probability } r \\ x / (1 - r) & \text{otherwise} \end{cases}",
        'Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"',
        "dropout",
    ),
    Term(
        "Entropy",
        "How unsure a prediction is: the mean surprisal of a token drawn from it, here in bits. It is 0 if one token "
        "has all the probability.",
        r"H(p) = -\sum_t p_t \log_2 p_t",
        _SHANNON,
        "next_token",
    ),
    Term(
        "GELU",
        "The bend between the two linear layers of an MLP: it lets large positive numbers through and takes negative "
        "ones towards 0. GPT-2 uses this approximation.",
        r"\mathrm{GELU}(x) \approx \frac{x}{2} \left(1 + \tanh\left(\sqrt{2 / \pi} \, (x + 0.044715 x^3)\right)\right)",
        'Hendrycks and Gimpel 2016, "Gaussian Error Linear Units (GELUs)"',
        "block",
    ),
    Term(
        "Head",
        "One of the attentions that work side by side in a layer, each with queries, keys and values of its own. "
        "L2H5 is head 5 of layer 2.",
        r"z_i^h = \sum_{j \le i} A_{ij}^h \, v_j^h",
        _VASWANI,
        "attention",
    ),
    Term(
        "Key",
        "What a token offers to be found by: a short vector per head, which the queries are compared with.",
        r"k_j = W_K \, \mathrm{LN}(x_j) + b_K",
        _VASWANI,
        "block",
    ),
    Term(
        "Layer",
        "The place of a Transformer block in the stack, counted from 0. Layer 2 is the third block that the data goes "
        "through.",
        page="birds_eye",
    ),
    Term(
        "LayerNorm",
        "Brings a vector to mean 0 and variance 1, then scales every dimension by a learned gain γ and moves it by a "
        "learned bias β.",
        r"\mathrm{LN}(x) = \gamma \odot \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}} + \beta",
        'Ba et al. 2016, "Layer Normalization"',
        "block",
    ),
    Term(
        "Logit",
        "The number that the model gives to each token t of the vocabulary, before the softmax makes probabilities of "
        "them. Only differences between logits count.",
        r"\mathrm{logit}_t = W_U[t] \cdot \mathrm{LN}(x)",
        page="next_token",
    ),
    Term(
        "Loss",
        "What training lowers: the mean surprisal of the text's own next tokens, also called the cross-entropy.",
        r"L = -\frac{1}{n - 1} \sum_{i=1}^{n-1} \ln p(t_i \mid t_0, \ldots, t_{i-1})",
        page="gradients",
    ),
    Term(
        "MLP",
        "The feed-forward network (MLP) of a Transformer block: two linear layers with a GELU between them, for each "
        "token alone.",
        r"\mathrm{MLP}(x) = W_2 \, \mathrm{GELU}(W_1 x + b_1) + b_2",
        _VASWANI,
        "block",
    ),
    Term(
        "Nats",
        "The unit of surprisal, loss and KL divergence with natural logarithms.",
        r"1 \text{ nat} = \frac{1}{\ln 2} \text{ bits} \approx 1.443 \text{ bits}",
        _SHANNON,
        "next_token",
    ),
    Term(
        "Neuron",
        "One of the numbers between the two linear layers of an MLP. It adds its own column of the second matrix to "
        "the residual stream, times its activation a.",
        r"\mathrm{MLP}(x) = b_2 + \sum_m a_m W_2[:, m], \qquad a = \mathrm{GELU}(W_1 x + b_1)",
        'Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories"',
        "block",
    ),
    Term(
        "Output head",
        "The last matrix, also called the unembedding, with one row for each token of the vocabulary. It turns a "
        "token's last vector into logits.",
        r"\mathrm{logits} = W_U \, \mathrm{LN}(x)",
        _ELHAGE,
        "next_token",
    ),
    Term(
        "Perplexity",
        "The number e to the power of the loss L: the model is as unsure as if it chose among so many equally probable "
        "tokens.",
        r"e^L",
        'Jelinek et al. 1977, "Perplexity—a Measure of the Difficulty of Speech Recognition Tasks"',
        "next_token",
    ),
    Term(
        "Positional embedding",
        "A learned vector for each position, added to the token embedding. Without it the model could hardly tell one "
        "order from another.",
        r"x_i^{(0)} = W_E[t_i] + W_P[i]",
        'Gehring et al. 2017, "Convolutional Sequence to Sequence Learning"',
        "embeddings",
    ),
    Term(
        "Probability",
        "The share of the prediction that a token t gets: the softmax over the logits of the whole vocabulary.",
        r"p_t = \frac{e^{\mathrm{logit}_t}}{\sum_u e^{\mathrm{logit}_u}}",
        page="next_token",
    ),
    Term(
        "Query",
        "What a token looks for: a short vector per head, which is compared with the keys.",
        r"q_i = W_Q \, \mathrm{LN}(x_i) + b_Q",
        _VASWANI,
        "block",
    ),
    Term(
        "Residual stream",
        "The one vector per token that runs through the whole model. Every attention and every MLP reads it and adds "
        "to it.",
        r"x^{(l+1)} = x^{(l)} + \mathrm{attention}^{(l)} + \mathrm{MLP}^{(l)}",
        _ELHAGE,
        "residual",
    ),
    Term(
        "Shortcut connection",
        "What adds a sub-layer's output to its input instead of replacing it, also called a residual connection. It "
        "lets gradients reach the first layer.",
        r"y = x + f(x)",
        'He et al. 2016, "Deep Residual Learning for Image Recognition"',
        "gradients",
    ),
    Term(
        "Softmax",
        "Makes any numbers positive and lets them sum to 1, the larger ones with the larger shares.",
        r"\mathrm{softmax}(s)_i = \frac{e^{s_i}}{\sum_j e^{s_j}}",
        "Bridle 1990, "
        '"Probabilistic Interpretation of Feedforward Classification Network Outputs, with Relationships to '
        'Statistical Pattern Recognition"',
        "block",
    ),
    Term(
        "Surprisal",
        "How little the model expected a token, given those before it: 0 for a certain one, and the more the less "
        "probable it was.",
        r"-\ln p(t_i \mid t_0, \ldots, t_{i-1})",
        'Hale 2001, "A Probabilistic Earley Parser as a Psycholinguistic Model"',
        "next_token",
    ),
    Term(
        "Temperature",
        "A number T that divides the logits before a token is drawn. Below 1 the most probable tokens gain, above 1 "
        "the others do.",
        r"p_t = \frac{e^{\mathrm{logit}_t / T}}{\sum_u e^{\mathrm{logit}_u / T}}",
        'Ackley et al. 1985, "A Learning Algorithm for Boltzmann Machines"',
        "next_token",
    ),
    Term(
        "Token",
        "The piece of text that the model reads and writes: a word, a part of one, a sign or some bytes. It has a "
        "number, its id.",
        page="tokens",
    ),
    Term(
        "Token embedding",
        "A learned vector for each token of the vocabulary: the row of a matrix that the token's id picks.",
        r"e_i = W_E[t_i]",
        'Bengio et al. 2003, "A Neural Probabilistic Language Model"',
        "embeddings",
    ),
    Term(
        "Top-k",
        "Only the k most probable tokens can be drawn, and their probabilities are scaled to sum to 1.",
        r"p_t \to \frac{p_t}{\sum_{u \in V_k} p_u} \quad \text{for } t \in V_k",
        'Fan et al. 2018, "Hierarchical Neural Story Generation"',
        "next_token",
    ),
    Term(
        "Top-p",
        "Only the fewest most probable tokens whose probabilities sum to p or more can be drawn, also called nucleus "
        "sampling.",
        r"p_t \to \frac{p_t}{\sum_{u \in V_p} p_u} \quad \text{for } t \in V_p, \qquad \sum_{u \in V_p} p_u \ge p",
        'Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration"',
        "next_token",
    ),
    Term(
        "Transformer block",
        "The unit that GPT-2 stacks: an attention and an MLP, each behind a LayerNorm and with a shortcut connection "
        "around it.",
        r"x' = x + \mathrm{attention}(\mathrm{LN}_1(x)), \qquad y = x' + \mathrm{MLP}(\mathrm{LN}_2(x'))",
        _GPT2,
        "block",
    ),
    Term(
        "Value",
        "What a token hands over when it is looked at: a short vector per head.",
        r"v_j = W_V \, \mathrm{LN}(x_j) + b_V",
        _VASWANI,
        "block",
    ),
    Term("Vocabulary", "All the tokens that a model knows. GPT-2 has 50,257.", source=_GPT2, page="tokens"),
    Term(
        "Weight tying",
        "The output head uses the same matrix as the token embedding, so that the model has fewer parameters.",
        r"W_U = W_E",
        'Press and Wolf 2017, "Using the Output Embedding to Improve Language Models"',
        "birds_eye",
    ),
)
