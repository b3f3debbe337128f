"""What every process of the tests begins with. The fixtures are in shared_fixtures.py: importing all they need takes
seconds."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny products gain nothing from threads
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the network


def pytest_collection(session):
    """The process that only hands tests out to others needs no fixtures."""
    if not session.config.pluginmanager.has_plugin("dsession"):
        session.config.pluginmanager.import_plugin("shared_fixtures")
