"""The app's pages, for the tests."""

from pages import PAGES as GROUPS

MODULES = [module for group in GROUPS.values() for module in group]
# Path in the URL -> title.
PAGES = {"" if module is MODULES[0] else module.__name__.rpartition(".")[2]: module.ABOUT.title for module in MODULES}
EXPERIMENTS = {module.__name__.rpartition(".")[2] for module in GROUPS["Experiments"]}
# Pages that do not use the shared text; and of these, pages that show nothing of any model.
OWN_TEXTS = {name for name, module in zip(PAGES, MODULES, strict=True) if not module.ABOUT.uses_text}
WORDS_ALONE = {
    name for name, module in zip(PAGES, MODULES, strict=True) if name in OWN_TEXTS and not module.ABOUT.shows_numbers
}
