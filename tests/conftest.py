"""What every process of the tests begins with, and which files first. The fixtures are in shared_fixtures.py: importing
all they need takes seconds."""

import gc
import os

gc.disable()  # what is imported from here on is not looked through again and again, as in squeeze/cli_models.py
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny products gain nothing from threads
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the network


def pytest_collection(session):
    """The process that only hands tests out to others needs no fixtures."""
    if not session.config.pluginmanager.has_plugin("dsession"):
        session.config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


LONG = (  # begun first, so that the processes end together: those with a browser and those without in turn
    "test_measure_page", "test_layers", "test_evaluation", "test_shape", "test_bench", "test_stop", "test_tables",
    "test_restore", "test_training", "test_history", "test_cli", "test_api", "test_dreambench_command", "test_film",
    "test_warmup", "test_queue", "test_request", "test_measure_recipes", "test_train_command", "test_crop",
    "test_app", "test_page", "test_critic", "test_leaving", "test_timeline",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Files stay whole, and the others in their order."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
