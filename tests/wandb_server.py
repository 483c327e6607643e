"""A W&B server of a few lines on loopback: as much as today's client asks for an online run, `wandb sync`, a sweep and
its agents, and a dashboard. It keeps what it was sent."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

import yaml

KEY = "local-" + "a" * 40
ENTITY, PROJECT = "me", "atrous"
WHERE = {"id": "p", "name": PROJECT, "entity": {"id": "e", "name": ENTITY}}


class Run:
    def __init__(self, name: str):
        self.name = name
        self.about: dict[str, Any] = {}
        """What the run says of itself: groupName, tags, displayName, config, jobType …"""
        self.lines: dict[str, dict[int, str]] = {}
        self.exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {key: node["value"] for key, node in json.loads(self.about["config"]).items() if key != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        kept = self.lines.get("wandb-history.jsonl", {})
        return [json.loads(kept[offset]) for offset in sorted(kept)]

    @property
    def summary(self) -> dict[str, Any]:
        kept = self.lines.get("wandb-summary.json", {})
        return json.loads(kept[max(kept)]) if kept else {}


class Server:
    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.sweep: dict[str, Any] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.uploads: list[str] = []
        self.unknown: list[str] = []
        """Operations that were asked for, and not known here."""
        self.url = ""
        self.given = 0

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "", "WANDB_INIT_TIMEOUT": "20"}

    # ---- GraphQL ------------------------------------------------------------------------------------------------
    def answer(self, query: str, message: dict[str, Any]) -> dict[str, Any]:
        result = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        operation = result[1] if result else ""
        method = getattr(self, f"on_{operation}", None)
        if method is not None:
            return method(message)
        self.unknown.append(f"{operation}: {query[:3000]}")
        return {}

    def on_Viewer(self, message: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "admin": False}
        viewer |= {"flags": "{}", "teams": {"edges": []}, "apiKeys": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None}}

    on_GetDefaultEntity = on_Viewer

    def on_ServerFeaturesQuery(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_UpsertBucket(self, message: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(message["name"], Run(message["name"]))
        new = not run.about
        run.about |= {key: value for key, value in message.items() if value is not None}
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.about.get("displayName"),
            "project": WHERE,
            "description": None,
            "config": None,
            "sweepName": message.get("sweep"),
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_RunResumeStatus(self, message: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(message["name"])
        if run is None or not run.about:
            return {"model": {"id": "p", "name": PROJECT, "bucket": None}}
        tail = {"historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]), "eventsTail": "[]"}
        counts = {"historyLineCount": len(run.history), "eventsLineCount": 0, "logLineCount": 0}
        bucket: dict[str, Any] = {
            "id": run.name,
            "name": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": "",
            **tail,
        }
        bucket |= counts | {
            "config": run.about.get("config", "{}"),
            "tags": run.about.get("tags", []),
            "wandbConfig": "{}",
        }
        return {"model": {"id": "p", "name": PROJECT, "bucket": bucket}}

    def on_CreateRunFiles(self, message: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "displayName": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in message["files"]
        ]
        return {"createRunFiles": {"runID": message["run"], "uploadHeaders": [], "files": files}}

    # ---- artifacts: what a table is kept in ------------------------------------------------------------------------
    def on_OrganizationCoreWeaveOrganizationID(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def on_ArtifactType(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def on_CreateArtifact(self, message: dict[str, Any]) -> dict[str, Any]:
        version = {"artifactSequence": {"id": "q", "latestArtifact": None}}
        return {"createArtifact": {"artifact": {"id": "a1", "state": "COMMITTED", **version}}}

    def on_UseArtifact(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"useArtifact": {"artifact": {"id": "a1"}}}

    # ---- sweeps -------------------------------------------------------------------------------------------------
    def on_UpsertSweep(self, message: dict[str, Any]) -> dict[str, Any]:
        self.sweep = yaml.safe_load(message["config"])
        return {
            "upsertSweep": {"sweep": {"id": "s", "name": "sweep1", "project": WHERE}, "configValidationWarnings": []}
        }

    def on_CreateAgent(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def on_Sweep(self, message: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": "s", "name": "sweep1", "method": self.sweep.get("method"), "state": "RUNNING", "runCount": 0}
        sweep |= {"description": None, "config": yaml.safe_dump(self.sweep), "createdAt": "2026-01-01T00:00:00"}
        sweep |= {"heartbeatAt": None, "updatedAt": None, "earlyStopJobRunning": False, "controller": None}
        sweep |= {"scheduler": None, "bestLoss": None, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def on_SweepWithRuns(self, message: dict[str, Any]) -> dict[str, Any]:
        return self.on_Sweep(message)

    def on_Heartbeat(self, message: dict[str, Any]) -> dict[str, Any]:
        """The next of a grid, as soon as the agent has nothing to do."""
        commands: list[dict[str, Any]] = []
        grid, busy = combinations(self.sweep["parameters"]), any(json.loads(message.get("runState") or "{}").values())
        if not busy and self.given < len(grid):
            self.given += 1
            args = {key: {"value": value} for key, value in grid[self.given - 1].items()}
            commands = [{"type": "run", "run_id": f"swept{self.given}", "args": args, "program": self.sweep["program"]}]
        elif not busy:
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}

    # ---- dashboards ---------------------------------------------------------------------------------------------
    def on_UpsertView2(self, message: dict[str, Any]) -> dict[str, Any]:
        key = message.get("id") or f"view{len(self.views)}"
        self.views[key] = message
        project = {"id": "p", "name": message["projectName"], "entityName": message["entityName"]}
        view = {"id": key, "name": message["name"], "displayName": message["displayName"], "type": message["type"]}
        view |= {"description": "", "project": project, "spec": message["spec"], "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": True}}

    on_upsertView = on_UpsertView2

    def on_ProjectInternalId(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": "p", "internalId": "1"} if message["projectName"] == PROJECT else None}

    def on_GetProjects(self, message: dict[str, Any]) -> dict[str, Any]:
        node: dict[str, Any] = {"id": "p", "name": PROJECT, "entityName": ENTITY, "createdAt": "", "isBenchmark": False}
        node["user"] = {"id": "u", "name": ENTITY, "username": ENTITY, "email": "", "admin": False, "flags": "{}"}
        node["user"] |= {"entity": ENTITY, "deletedAt": None, "teams": None, "apiKeys": None}
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node, "cursor": ""}], "pageInfo": page}}

    # ---- what a run streams -------------------------------------------------------------------------------------
    def stream(self, name: str, message: dict[str, Any]) -> None:
        run = self.runs.setdefault(name, Run(name))
        for file, chunk in (message.get("files") or {}).items():
            lines = run.lines.setdefault(file, {})
            lines |= {chunk["offset"] + i: line for i, line in enumerate(chunk["content"])}
        if message.get("complete"):
            run.exit_code = message.get("exitcode")


def combinations(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    grid: list[dict[str, Any]] = [{}]
    for key, node in parameters.items():
        values = node.get("values", [node.get("value")])
        grid = [one | {key: value} for one in grid for value in values]
    return grid


def handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._read()
            if self.path.startswith("/graphql"):
                settings = json.loads(body)
                self._send({"data": server.answer(settings["query"], settings.get("variables") or {})})
                return
            result = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
            if result:
                server.stream(result[1], json.loads(body))
            self._send({})

        def do_PUT(self) -> None:
            self._read()
            server.uploads.append(self.path.removeprefix("/upload/").partition("?")[0])
            self._send({})

        def do_GET(self) -> None:
            self._send({})

        def _read(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _send(self, settings: dict[str, Any]) -> None:
            content = json.dumps(settings).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


class Loopback(ThreadingTCPServer):  # HTTPServer asks DNS for the host's name
    allow_reuse_address, daemon_threads = True, True

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that is killed breaks its connection."""


@contextmanager
def wandb_server() -> Iterator[Server]:
    server = Server()
    with Loopback(("127.0.0.1", 0), handler_of(server)) as listening:
        server.url = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
