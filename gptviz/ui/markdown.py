"""Strings that a person or a file supplies, as Markdown that shows them as they are."""

import re

_JOINER = "\u2060"  # takes no room, and does not join words


def code(string: str) -> str:
    """A token's string as Markdown code, whatever it holds."""
    string = string.replace(":material/", f":{_JOINER}material/")  # Streamlit replaces it even in code
    fence = "`" * (string.count("`") + 1)
    pad = " " if "`" in string else ""
    return f"{fence}{pad}{string}{pad}{fence}"


def plain(text: str) -> str:
    """A sentence with names of files or tensors in it, as Markdown that shows it unchanged.

    Streamlit looks for shortcodes, addresses and arrows after it has removed the backslashes, and for list markers at
    the beginning. An invisible character breaks them.
    """
    text = re.sub(r"[\\`*_{}\[\]<>#~$&|]", r"\\\g<0>", " ".join(text.split()))
    breaks = r":(?=\S)|@|www(?=\.)|^(?=\W|\d)|(?<=\s)(?=\\?[<>~-])"
    return re.sub(breaks, rf"\g<0>{_JOINER}", text, flags=re.IGNORECASE)
