"""Plays the scenarios of scenarios.yaml: each in a namespace of its own, its steps one after the other, with every observed figure printed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import yaml

from scenarios import steps

FILE = Path(__file__).with_name("scenarios.yaml")
ENGINES = ("weir", "envoy")


class Failed(AssertionError):
    """A step that did not see what it should; the message says which."""


def load() -> dict[str, dict]:
    """The scenarios by their number, in order; what a scenario begins from may be another's (`like`)."""
    scenarios = {str(item["number"]): item for item in yaml.safe_load(FILE.read_text())["scenarios"]}
    for number, scenario in scenarios.items():
        unknown = set(scenario) - {"number", "title", "like", "workloads", "services", "steps", "gateway"}
        assert not unknown, f"scenario {number} has unknown keys: {unknown}"
        for step in scenario["steps"]:
            assert next(iter(step)) in steps.STEPS, f"scenario {number}: no step begins with {next(iter(step))!r}"
        if like := scenario.get("like"):
            for key in ("workloads", "services"):
                scenario.setdefault(key, scenarios[str(like)].get(key, {}))
    return scenarios


def play(mesh, engine: str, scenario: dict, say=print):
    """Plays one scenario; raises `Failed` at the first step that does not hold."""
    number = str(scenario["number"])
    namespace = "scenario-" + re.sub(r"[^a-z0-9]+", "-", number.lower())
    begin = time.monotonic()

    def tell(text: str):
        say(f"[{engine} {number} {time.monotonic() - begin:5.1f} s] {text}")

    tell(scenario["title"])
    mesh.kubectl("create", "namespace", namespace)
    stage = steps.Stage(mesh, engine, namespace, tell)
    try:
        steps.given(stage, scenario)
        tell("pods and proxies are ready")
        for position, step in enumerate(scenario["steps"], 1):
            step = stage.fill(step)
            verb = next(iter(step))
            if step.get("only", engine) != engine:
                continue
            try:
                steps.STEPS[verb](stage, step)
            except AssertionError as error:
                raise Failed(f"scenario {number} on {engine}, step {position} ({verb}: {str(step[verb])[:200]}): {error}") from None
        steps.finish(stage)
    finally:
        stage.abandon()
        mesh.kubectl("delete", "namespace", namespace, "--wait=false", check=False)
    tell("passed")
