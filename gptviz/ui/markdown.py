"""Strings from users or files, as Markdown that shows them unchanged."""

import html
import re

_JOINER = "\u2060"  # invisible; takes no room, and does not join words


def code(string: str) -> str:
    """Return a token's string as Markdown code, whatever characters it holds."""
    string = string.replace(":material/", f":{_JOINER}material/")  # Streamlit replaces it even in code
    fence = "`" * (string.count("`") + 1)
    pad = " " if "`" in string else ""
    return f"{fence}{pad}{string}{pad}{fence}"


def html_of(text: str) -> str:
    """Return one of our own sentences, with `**bold**` and backticks for code, as HTML."""
    escaped = html.escape(text, quote=False)
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", bold)


def plain(text: str) -> str:
    """Return a sentence that contains names of files or tensors as Markdown that shows it unchanged.

    Streamlit looks for shortcodes, addresses and arrows after it has removed the backslashes, and for list markers at
    the beginning. An invisible character in each of them keeps Streamlit from recognising it.
    """
    text = re.sub(r"[\\`*_{}\[\]<>#~$&|]", r"\\\g<0>", " ".join(text.split()))
    breaks = r":(?=\S)|@|www(?=\.)|^(?=\W|\d)|(?<=\s)(?=\\?[<>~-])"
    return re.sub(breaks, rf"\g<0>{_JOINER}", text, flags=re.IGNORECASE)
