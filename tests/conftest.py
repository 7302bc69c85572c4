"""What all tests share: small models, and no network."""

import ipaddress
import socket

from jaxtyping import install_import_hook

# Before anything imports gptviz: from here on the shapes and types that numerics declares are checked at every call.
install_import_hook("gptviz.numerics", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import pytest
import torch
from browser import Tab, app_server, chromium
from tiny import tiny_engine

import gptviz

torch.set_num_threads(1)  # the models are small: threads of torch would wait for each other


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection that leaves this machine fails the test."""
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
    """An engine with a seeded model: 3 blocks, 4 heads, 16 dimensions, 32 positions, a head of its own."""
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
    """The app, warmed up, with no hub within reach."""
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
    """A part of a page that fails is a sentence there, and so a test might not see it: it fails the test, unless the
    test is about that (`@pytest.mark.fails`)."""
    yield
    if not request.node.get_closest_marker("fails"):
        records = [record for record in caplog.get_records("call") if record.name == "gptviz.ui.fragments"]
        assert [record.getMessage() for record in records] == []
