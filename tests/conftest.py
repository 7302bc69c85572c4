"""Fixtures shared by all tests: small models, no network, and the app in a browser."""

import ipaddress
import socket

from jaxtyping import install_import_hook

# This must come before any import of gptviz: it checks the shapes and types declared in numerics at every call.
install_import_hook("gptviz.numerics", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import pytest
import torch
from browser import Tab, app_server, chromium
from tiny import tiny_engine

import gptviz

torch.set_num_threads(1)  # The models are so small that torch's threads would mostly wait for each other.


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail the test on any connection that leaves this machine."""
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _loopback_only(getattr(socket.socket, name)))


def _loopback_only(connect):
    def checked(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            pytest.fail(f"a test connects to {address}")
        return connect(self, address)

    return checked


def _is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session")
def tiny():
    """An engine with a seeded model: 3 blocks, 4 heads, 16 dimensions, 32 positions, an untied output head."""
    return tiny_engine()


@pytest.fixture(scope="session")
def story():
    """The bundled model."""
    return gptviz.load("story-gpt", device="cpu")


@pytest.fixture(scope="session")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def address(browser, tmp_path_factory):
    """The address of the running app, with no hub within reach."""
    with app_server(tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture
def new_tab(browser, address):
    tabs = []

    def new(address=address, **how):
        tabs.append(Tab(browser, address, **how))
        return tabs[-1]

    yield new
    for tab in tabs:
        tab.close()


@pytest.fixture
def tab(new_tab):
    return new_tab()


@pytest.fixture(autouse=True)
def no_part_fails(request, caplog):
    """Fail the test if part of a page fails, unless the test is about that (`@pytest.mark.fails`).

    A part that fails only shows a sentence on the page, which a test might miss.
    """
    yield
    if not request.node.get_closest_marker("fails"):
        records = [record for record in caplog.get_records("call") if record.name == "gptviz.ui.fragments"]
        assert [record.getMessage() for record in records] == []
