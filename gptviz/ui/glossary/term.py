"""One word of the glossary."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One word of the field."""

    name: str  # as the pages write it
    definition: str  # one or two sentences without markup, for pages and tooltips
    formula: str = ""  # LaTeX, in the letters that `LETTERS` explains
    source: str = ""  # authors and year, and the title in quotation marks
    page: str = ""  # the name of the page that shows it

    def is_called(self, words: str) -> bool:
        """Return whether these words are the term's name, in upper or lower case."""
        return self.name.casefold().split() == words.casefold().split()
