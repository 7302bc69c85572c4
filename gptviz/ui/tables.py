"""Short tables, and the verdict of a check."""

import html
from collections.abc import Mapping, Sequence

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


def table_of_links(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Draw a table whose cells are HTML with links; `rows` has the cells of each row by the row's name.

    `title` and `columns` head the column of names, and the others. A row may have fewer cells than there are columns.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (title, *columns))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    st.html(f'<div class="tables"><div>{table}</div></div>')


def verdict(passed: bool, sentence: str) -> None:
    """Show the result of a check as a green or red badge."""
    if passed:
        st.badge(sentence, icon=":material/check_circle:", color="green")
    else:
        st.badge(sentence, icon=":material/error:", color="red")
