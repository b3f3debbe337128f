"""Shared fixtures: tiny random models, written once and loaded as the program loads its own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny products gain nothing from threads
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the network

import pytest
from tiny import make_request, tiny_profile, write_models

from squeeze.models.loading import load


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Tiny weights on disk; read-only by agreement, copy it before you damage it."""
    path = tmp_path_factory.mktemp("tiny")
    write_models(path)
    return path


@pytest.fixture(scope="session")
def models(folder):
    """The tiny models as `load` gives them."""
    return load(tiny_profile(folder))


@pytest.fixture
def request_for(models):
    """Makes a request of the tiny profile; keywords are fields of Request."""

    def make(**asked):
        return make_request(models.profile, **asked)

    return make


@pytest.fixture
def forwards(models):
    """The keyword arguments of every transformer forward of this test, in order."""
    seen = []
    handle = models.dit.model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True)
    yield seen
    handle.remove()
