"""The app's pages, for the tests."""

from pages import PAGES as GROUPS

MODULES = [module for group in GROUPS.values() for module in group]
# Path in the URL -> title.
PAGES = {"" if module is MODULES[0] else module.__name__.rpartition(".")[2]: module.ABOUT.title for module in MODULES}
EXPERIMENTS = {module.__name__.rpartition(".")[2] for module in GROUPS["Experiments"]}
