"""Unit tests need no Ray."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def without_ray(no_ray: None) -> None:
    """End the Ray that tests of another kind have left."""
