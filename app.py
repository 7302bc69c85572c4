"""The app. Streamlit imports this file once, to serve it, and then runs it for every view: there it is the router."""

import os

import streamlit as st

# While one thread of torch waits for the next piece of work, it spins: 300,000 times, unless it is told another number
# before torch is loaded. So long it keeps a core from the browser beside it and from other sessions. With this number
# the model is as fast.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if __name__ == "__main__":
    from gptviz.ui import look, process, shared, state

    process.set_up()
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

    st.set_page_config(page_title="gptviz", page_icon="gptviz/ui/icon.png", layout="wide")
    look.page_style()
    state.start()
    page = st.navigation({"": PAGES, "Experiments": EXPERIMENTS}, position="top")
    with shared.part("page"):
        shared.controls()
        page.run()
else:
    from gptviz.ui import process, server

    process.set_up()
    server.restrict()
    app = st.App(__file__, lifespan=server.lifespan, middleware=server.MIDDLEWARE)
