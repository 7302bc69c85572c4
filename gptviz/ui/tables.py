"""Short tables, and the verdict of a check."""

import html
from collections.abc import Mapping

import pandas as pd
import streamlit as st


def tables(titled: Mapping[str, pd.DataFrame], token: str = "") -> None:
    """Draw a few short tables side by side, each under a title in which {} stands for the token.

    The tables are one piece of HTML, which a browser draws at once. `st.dataframe` draws on a canvas and takes as long
    as a chart: use it for tables that are long, or that users sort and search.
    """
    st.html(_tables(titled, token))


def _tables(titled: Mapping[str, pd.DataFrame], token: str) -> str:
    parts = (
        f"<div><p>{html.escape(title).format(f'<code>{html.escape(token)}</code>')}</p>"
        f"{table.to_html(index=False, border=0, justify='left', float_format='{:.4f}'.format)}</div>"
        for title, table in titled.items()
    )
    return f'<div class="tables">{"".join(parts)}</div>'


def verdict(passed: bool, sentence: str) -> None:
    """Show the result of a check as a green or red badge."""
    if passed:
        st.badge(sentence, icon=":material/check_circle:", color="green")
    else:
        st.badge(sentence, icon=":material/error:", color="red")
