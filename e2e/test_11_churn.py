"""A short form of `make churn`: steady load of every kind, random changes, and not one failed request. The seed is in the output."""

import random

import pytest

from churn.drive import churn
from conftest import start

SECONDS = 15


@pytest.mark.parametrize("engine", ["weir", "envoy"])
def test_churn(engine):
    mesh = start(f"churn-{engine}", ["--proxy", engine])
    try:
        result = churn(mesh.wait_ready(), engine, SECONDS, random.randrange(1 << 32))
    finally:
        try:
            mesh.stop()
        finally:
            mesh.remove()
    assert result.good(), f"make churn ENGINE={engine} SEED={result.seed} SECONDS={SECONDS}: {len(result.failures)} failures, see the output"
