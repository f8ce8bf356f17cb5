"""The examples of the documentation, typed in as they stand.

The convention in the Markdown:

- A block ```console is run. A line `$ COMMAND` is a command; lines `> ...` go on with it; every other line is what it prints.
  In that, `...` stands for anything within the line, a line `...` for any lines, and the width of gaps does not count.
- A command of which output is shown is asked again until it prints that: a change takes a moment to act. One that changes something
  itself is run once and must succeed, as must one of which nothing or nothing but `...` is shown.
- A block ```yaml (or another) that begins with `# NAME.yml` or `# NAME.yaml` is that file, from there on.
- All of a page is one shell. Blocks ```sh are not run: they need a cluster or something else of the reader's own.

Only addresses differ from the text: 127.0.0.1 with a port of `weir up` is this mesh's, any other one is a free port.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from conftest import free_port
from harness import PROFILE_DIR, ROOT, TOOLS, Mesh

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
FILE = re.compile(r"# ([\w.-]+\.ya?ml)\n")
ADDRESS = re.compile(r"((?:127\.0\.0\.1|localhost)(?::|, port_value: ))(\d+)")
# Of more than three dots the last three: `10....` begins with `10.`.
ANYTHING = re.compile(r"\.{3}(?!\.)")
# Commands that change something: done once, whatever is shown of them.
ONCE = re.compile(
    r"\bkubectl (apply|create|delete|label|annotate|patch|scale|replace|run|wait|rollout)\b|&$|^openssl |^kill |^[\w]+=|\(\) \{|-X POST"
)
COMMAND_S = 90


@dataclass
class File:
    name: str
    text: str


@dataclass
class Command:
    text: str
    shown: list[str] = field(default_factory=list)


def read(page: Path) -> list[File | Command]:
    """What of a page is done, in order."""
    steps: list[File | Command] = []
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            steps += commands(page, text)
        elif (named := FILE.match(text)) and language != "sh":
            steps.append(File(named[1], text))
    return steps


def commands(page: Path, text: str) -> list[Command]:
    found: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        elif not found:
            raise ValueError(f"{page.name}: a console block begins with {line!r}, not with a command")
        elif (line == ">" or line.startswith("> ")) and not found[-1].shown:
            found[-1].text += "\n" + line[2:]
        else:
            found[-1].shown.append(line.rstrip())
    return found


def form(shown: list[str]) -> re.Pattern:
    """A pattern for output like this."""
    lines = []
    for line in shown:
        if line == "...":
            lines.append(r"(?:[^\n]*\n)*?")
        else:
            words = [".*".join(re.escape(part) for part in ANYTHING.split(word)) for word in line.split()]
            lines.append(r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t]*\n")
    return re.compile("".join(lines))


class Shell:
    """One bash for all commands of a page, in a folder of its own, where `samples` and `deploy` are as in the checkout."""

    def __init__(self, mesh: Mesh):
        self.folder = Path(tempfile.mkdtemp(prefix="weir-e2e-page-"))
        for name in ("samples", "deploy"):
            (self.folder / name).symlink_to(ROOT / name)
        self.ports = {
            "7443": mesh.api_port, "9090": mesh.store_port, "8080": mesh.http_port, "8444": mesh.https_port,
        }
        self.done, status = os.pipe()
        environment = dict(
            mesh.environment, PATH=f"{PROFILE_DIR}:{TOOLS}:{mesh.environment['PATH']}:/usr/sbin", KUBECONFIG=str(mesh.kubeconfig),
            WEIR_STORE=f"http://127.0.0.1:{mesh.store_port}",
        )
        self.bash = subprocess.Popen(
            ["bash", "--norc", "-s"], stdin=subprocess.PIPE, text=True, env=environment, cwd=self.folder,
            pass_fds=[status], start_new_session=True,
        )
        self.status, self.number = status, 0

    def here(self, text: str) -> str:
        """The text with the addresses that are this run's."""

        def address(found: re.Match) -> str:
            before, port = found.groups()
            if port not in self.ports:
                self.ports[port] = free_port()
            return f"{before}{self.ports[port]}"

        return ADDRESS.sub(address, text)

    def run(self, text: str) -> tuple[int, str]:
        """Types one command in: its exit code and all that it printed."""
        self.number += 1
        command, output = self.folder / f".{self.number}.sh", self.folder / f".{self.number}.out"
        command.write_text(text + "\n")
        self.bash.stdin.write(f". {command} >{output} 2>&1 </dev/null; echo $? >&{self.status}\n")
        self.bash.stdin.flush()
        ready, _, _ = select.select([self.done], [], [], COMMAND_S)
        printed = output.read_text(errors="replace") if output.exists() else ""
        if not ready:
            raise AssertionError(f"not done after {COMMAND_S} s: {text}\n{printed[-3000:]}")
        return int(os.read(self.done, 16)), printed

    def write(self, file: File):
        (self.folder / file.name).write_text(self.here(file.text))

    def type(self, command: Command):
        """Runs a command as the convention says."""
        text = self.here(command.text)
        if not command.shown:
            code, printed = self.run(text)
            assert code == 0, f"exit {code}: $ {text}\n{printed[-3000:]}"
            return
        shown = [self.here(line) for line in command.shown]
        wanted, end = form(shown), time.monotonic() + COMMAND_S
        once = ONCE.search(text) is not None
        # What a question ends with is in what it prints.
        must_succeed = once or shown == ["..."]
        while True:
            code, printed = self.run(text)
            whole = printed if printed.endswith("\n") else printed + "\n"
            if wanted.fullmatch(whole) and (code == 0 or not must_succeed):
                return
            if once or time.monotonic() > end:
                raise AssertionError(f"$ {text}\nprinted (exit {code}):\n{printed[-3000:]}\nand not, as shown:\n" + "\n".join(shown))
            time.sleep(0.2)

    def output(self) -> str:
        """What commands in the background printed, for a failure's report."""
        return "".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in sorted(self.folder.glob(".*.out")))

    def end(self):
        """Ends the shell and what it started in the background."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.bash.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.bash.wait(5)
        self.bash.stdin.close()
        self.bash.wait(10)
        os.close(self.done)
        os.close(self.status)
        shutil.rmtree(self.folder, ignore_errors=True)


class Scene:
    """The mesh as it was, to which it is put back after a page."""

    KINDS = (
        "services,deployments,ingresses,configmaps,secrets,httproutes,gateways,referencegrants,trafficsplits.split.smi-spec.io,"
        "httproutegroups,namespaces,ingressclasses,clusterrolebindings,rolebindings,roles"
    )

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.before = self.objects()

    def objects(self) -> dict[tuple, dict]:
        found = {}
        for each in self.mesh.get(self.KINDS, "-A")["items"]:
            metadata = each["metadata"]
            group = each["apiVersion"].partition("/")[0] if "/" in each["apiVersion"] else ""
            kind = f"{each['kind']}.{group}".rstrip(".").lower()
            found[kind, metadata.get("namespace", ""), metadata["name"]] = each
        return found

    def restore(self):
        now = self.objects()
        # Namespaces last: what is in them is deleted by then.
        for kind, namespace, name in sorted(now.keys() - self.before.keys(), key=lambda key: key[0] == "namespace"):
            self.mesh.kubectl("delete", kind, name, *place(namespace), "--ignore-not-found", "--wait=false")
        for key in self.before.keys() & now.keys():
            if change := difference(self.before[key], now[key]):
                kind, namespace, name = key
                self.mesh.kubectl("patch", kind, name, *place(namespace), "--type=merge", "-p", json.dumps(change))


def place(namespace: str) -> list[str]:
    return ["-n", namespace] if namespace else []


def difference(before: dict, now: dict) -> dict:
    """The merge patch that makes `now` what it was, in what pages change: labels, annotations, spec, data."""
    change: dict = {}
    for part in ("labels", "annotations"):
        was, is_ = (each["metadata"].get(part, {}) for each in (before, now))
        keys = {key for key in was.keys() | is_.keys() if was.get(key) != is_.get(key) and not key.startswith("deployment.")}
        if keys:
            change.setdefault("metadata", {})[part] = {key: was.get(key) for key in keys}
    for part in ("spec", "data"):
        if before.get(part) != now.get(part) and before["kind"] != "Secret":
            change[part] = before.get(part)
    return change
