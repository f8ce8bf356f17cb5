"""The scenarios of scenarios/scenarios.yaml, each on both engines."""

import pytest

from conftest import start
from scenarios import play

SCENARIOS = play.load()


@pytest.fixture(scope="module", params=play.ENGINES)
def scene(request):
    """The engine, and a mesh whose pods have it if they do not choose."""
    running = start(f"scenarios-{request.param}", ["--proxy", request.param])
    try:
        yield request.param, running.wait_ready()
    finally:
        try:
            running.stop()
        finally:
            running.remove()


@pytest.mark.parametrize("number", SCENARIOS)
def test_scenario(scene, number):
    engine, mesh = scene
    play.play(mesh, engine, SCENARIOS[number])
