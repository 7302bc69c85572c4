"""The app. Streamlit imports this file once to serve it, then runs it for every view, where it is the router."""

import os

import streamlit as st

# An idle torch thread spins 300,000 times before it sleeps, which takes a core from the browser on this machine and
# from other sessions. The model is just as fast with this number. torch reads it when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if __name__ == "__main__":
    from gptviz.ui import fragments, look, page, process, sidebar, state
    from pages import PAGES

    process.set_up()
    st.set_page_config(page_icon="gptviz/ui/icon.png", layout="wide")
    state.start()
    chosen = page.navigation(PAGES)
    page.follow_link()
    with fragments.part("page"):
        sidebar.controls()
        look.page_style()
        chosen.run()
else:
    from gptviz.ui import process, server

    process.set_up()
    server.restrict()
    app = st.App(__file__, lifespan=server.lifespan, middleware=server.MIDDLEWARE)
