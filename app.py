"""The router: the table of pages and the controls that they share."""

import streamlit as st

from gptviz.ui import look, shared, state

PAGES = [
    st.Page("pages/birds_eye.py", title="Bird's-eye view", default=True),
    st.Page("pages/tokens.py", title="Tokens"),
    st.Page("pages/embeddings.py", title="Embeddings"),
    st.Page("pages/attention.py", title="Attention"),
    st.Page("pages/block.py", title="Block"),
    st.Page("pages/residual.py", title="Residual stream"),
    st.Page("pages/next_token.py", title="Next token"),
]

st.set_page_config(page_title="gptviz", page_icon="gptviz/ui/icon.png", layout="wide")
look.page_style()
state.start()
page = st.navigation(PAGES, position="top")
shared.controls()
page.run()
shared.finish()
