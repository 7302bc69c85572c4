"""The router: the table of pages and the controls that they share."""

import streamlit as st

from gptviz.ui import look, memory, shared, state

PAGES = [
    st.Page("pages/birds_eye.py", title="Bird's-eye view", default=True),
    st.Page("pages/tokens.py", title="Tokens"),
    st.Page("pages/embeddings.py", title="Embeddings"),
    st.Page("pages/attention.py", title="Attention"),
    st.Page("pages/block.py", title="Block"),
    st.Page("pages/residual.py", title="Residual stream"),
    st.Page("pages/next_token.py", title="Next token"),
]
EXPERIMENTS = [
    st.Page("pages/ablation.py", title="Ablation"),
    st.Page("pages/patching.py", title="Patching"),
    st.Page("pages/compare.py", title="Compare"),
    st.Page("pages/dropout.py", title="Dropout"),
    st.Page("pages/gradients.py", title="Gradients"),
]

memory.tune()
st.set_page_config(page_title="gptviz", page_icon="gptviz/ui/icon.png", layout="wide")
look.page_style()
state.start()
page = st.navigation({"": PAGES, "Experiments": EXPERIMENTS}, position="top")
with shared.part("page"):
    shared.controls()
    page.run()
