"""Fixtures that several rooms use."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.tiny import tiny_checkpoint_folder

# An example may take long on a busy machine; a test that hangs is stopped by whoever runs the suite.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_tiny_matrix() -> None:
    """Tiny tensors gain nothing from threads, and busy ones make timings of other tests worse."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Lite-like tiny random model and its tokenizer. Treat as read-only."""
    return tiny_checkpoint_folder(tmp_path_factory.mktemp("lite"))


@pytest.fixture(scope="session")
def tiny_full_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the 236B's architecture."""
    return tiny_checkpoint_folder(tmp_path_factory.mktemp("full"), "full")
