"""A stand-in for W&B's server on loopback, in memory: runs, media, artifacts, sweeps, views; it checks no credentials.

What a run has there: ``server.run(id)`` with the keys config, history, summary, tags, groupName, exitcode, state, files
and others. Saved views and reports are in ``server.views``, their ``spec`` parsed. What could not be answered is in
``server.errors``.
"""

import base64
import gzip
import itertools
import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


def gid(*parts):
    """An opaque id in the server's style."""
    return base64.urlsafe_b64encode(":".join(map(str, parts)).encode()).decode()


KEY = "0123456789" * 4


class FakeWandb:
    """The server, running while it is open as a context.

    Attributes
    ----------
    refusal : int
        A status that every request is answered with from now on; 0 for none.
    hanging : threading.Event
        Set: no request is answered any more until the server is closed.
    """

    def __init__(self, host="127.0.0.1", port=0, entity="test-entity"):
        self.refusal, self.hanging, self.closed = 0, threading.Event(), threading.Event()
        self.entity, self.lock, self.ids = entity, threading.RLock(), itertools.count(1)
        self.runs, self.artifacts, self.sweeps, self.agents, self.views = {}, {}, {}, {}, {}
        self.requests, self.errors = [], []  # (operation, variables) seen; what could not be answered
        self.httpd = ThreadingHTTPServer((host, port), type("Handler", (_Handler,), {"app": self}))
        self.httpd.handle_error = lambda *a: None  # clients drop their sockets at exit
        self.url = f"http://{host}:{self.httpd.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.closed.set()
        self.httpd.shutdown()
        self.httpd.server_close()

    def env(self):
        """What a process needs to talk to this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}

    def run(self, run_id):
        return next(r for r in self.runs.values() if r["name"] == run_id)

    def graphql(self, body):
        name = body.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", body["query"])[1]
        op, v = getattr(self, "op_" + name, None), body.get("variables") or {}
        self.requests.append((name, v))
        if op is None:  # an error and not an empty answer: wandb-core crashes on a null payload
            self.errors.append(f"no answer to {name}")
            return {"data": None, "errors": [{"message": f"fake server: no answer to {name}"}]}
        return {"data": op(v)}

    # -- runs: one method per GraphQL operation ---------------------------------------------------
    def op_Viewer(self, v):
        return {
            "viewer": {
                "id": "1",
                "entity": self.entity,
                "username": self.entity,
                "flags": "{}",
                "email": "t@example.com",
                "teams": {"edges": []},
            }
        }

    def op_ServerFeaturesQuery(self, v):
        return {"serverInfo": {"features": []}}

    def op_OrganizationCoreWeaveOrganizationID(self, v):
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def op_UpsertBucket(self, v):
        known = next((k for k, r in self.runs.items() if v.get("id") and r["id"] == v["id"]), None)
        key = known or (
            v.get("entity") or self.entity,
            v.get("project") or "uncategorized",
            v.get("name") or uuid.uuid4().hex[:8],
        )
        inserted = key not in self.runs
        run = self.runs.setdefault(
            key,
            {
                "id": gid("Run", *key),
                "entity": key[0],
                "project": key[1],
                "name": key[2],
                "config": {},
                "history": [],
                "events": [],
                "console": [],
                "summary": {},
                "files": {},
                "tags": [],
                "alerts": [],
                "groupName": None,
                "jobType": None,
                "sweep": None,
                "displayName": f"fake-{key[2]}",
                "notes": None,
                "exitcode": None,
                "state": "running",
            },
        )
        run.update(
            {k: v[k] for k in ("groupName", "jobType", "displayName", "notes", "tags", "sweep") if v.get(k) is not None}
        )
        if v.get("config"):
            run["config"] = {k: c["value"] for k, c in json.loads(v["config"]).items()}
        if v.get("summaryMetrics"):
            run["summary"] = json.loads(v["summaryMetrics"])
        return {"upsertBucket": {"bucket": self.bucket(run), "inserted": inserted}}

    def bucket(self, run):
        def tail(rows):
            return json.dumps([json.dumps(r) for r in rows[-1:]])

        return {
            "id": run["id"],
            "name": run["name"],
            "displayName": run["displayName"],
            "tags": run["tags"],
            "notes": run["notes"],
            "sweepName": run["sweep"],
            "wandbConfig": '{"t": 1}',
            "config": json.dumps({k: {"value": c} for k, c in run["config"].items()}),
            "summaryMetrics": json.dumps(run["summary"]),
            "historyLineCount": len(run["history"]),
            "eventsLineCount": len(run["events"]),
            "logLineCount": len(run["console"]),
            "historyTail": tail(run["history"]),
            "eventsTail": tail(run["events"]),
            "project": {
                "id": gid("Project", run["project"]),
                "name": run["project"],
                "entity": {"id": gid("Entity", run["entity"]), "name": run["entity"]},
            },
        }

    def op_RunResumeStatus(self, v):
        entity = v.get("entity") or self.entity
        run = self.runs.get((entity, v["project"], v["name"]))
        return {
            "model": {
                "id": "m",
                "name": v["project"],
                "entity": {"id": "e", "name": entity},
                "bucket": run and self.bucket(run),
            }
        }

    def op_CreateRunFiles(self, v):
        return {
            "createRunFiles": {
                "runID": v["run"],
                "uploadHeaders": [],
                "files": [{"name": f, "uploadUrl": f"{self.url}/upload/run/{v['run']}/{f}"} for f in v["files"]],
            }
        }

    def op_NotifyScriptableRunAlert(self, v):
        self.run(v["runName"])["alerts"].append((v["title"], v["text"]))
        return {"notifyScriptableRunAlert": {"success": True}}

    # -- artifacts (upload only) ------------------------------------------------------------------
    def op_ArtifactType(self, v):
        return {"project": None}

    def op_CreateArtifact(self, v):
        i = v["input"]
        art = next((a for a in self.artifacts.values() if a["clientID"] == i["clientID"]), None)
        if art is None:
            art = {
                "id": gid("Artifact", next(self.ids)),
                "state": "PENDING",
                "name": i["artifactCollectionName"],
                "type": i["artifactTypeName"],
                "clientID": i["clientID"],
                "digest": i["digest"],
                "files": {},
                "run": i.get("runName"),
                "metadata": json.loads(i.get("metadata") or "{}"),
                "aliases": [a["alias"] for a in i.get("aliases") or []],
            }
            self.artifacts[art["id"]] = art
        return {
            "createArtifact": {
                "artifact": {
                    "id": art["id"],
                    "state": art["state"],
                    "artifactSequence": {"id": gid("Collection", art["name"]), "latestArtifact": None},
                }
            }
        }

    def op_CreateArtifactManifest(self, v):
        file = {"id": "f", **self.upload_to(v["artifactID"], "wandb_manifest.json")}
        return {"createArtifactManifest": {"artifactManifest": {"id": gid("Manifest", next(self.ids)), "file": file}}}

    def op_CreateArtifactFiles(self, v):
        nodes = [
            {
                "node": {
                    "id": "f",
                    "uploadMultipartUrls": None,
                    "storagePath": s["name"],
                    "artifact": {"id": s["artifactID"]},
                    **self.upload_to(s["artifactID"], s["name"]),
                }
            }
            for s in v["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def upload_to(self, artifact, name):
        return {
            "name": name,
            "displayName": name,
            "uploadHeaders": [],
            "uploadUrl": f"{self.url}/upload/artifact/{artifact}/{name}",
        }

    def op_CommitArtifact(self, v):
        art = self.artifacts[v["artifactID"]]
        art["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": art["id"], "digest": art["digest"]}}}

    # -- sweeps: the grid is expanded here, in the order of the YAML that the client sent -----------
    def add_sweep(self, config, project="uncategorized"):
        grid = [[(k, x) for x in p.get("values", [p.get("value")])] for k, p in config["parameters"].items()]
        sid = uuid.uuid4().hex[:8]
        self.sweeps[sid] = {
            "config": config,
            "project": project,
            "runs": {},
            "queue": [dict(c) for c in itertools.product(*grid)],
        }
        return sid

    def op_UpsertSweep(self, v):
        project = v.get("projectName") or "uncategorized"
        sid = self.add_sweep(yaml.safe_load(v["config"]), project)
        owner = {"id": "p", "name": project, "entity": {"id": "e", "name": v.get("entityName") or self.entity}}
        return {"upsertSweep": {"sweep": {"name": sid, "project": owner}, "configValidationWarnings": []}}

    def op_SweepWithRuns(self, v):
        s = self.sweeps.get(v["sweep"])
        return {
            "project": {
                "sweep": s
                and {
                    "id": gid("Sweep", v["sweep"]),
                    "name": v["sweep"],
                    "state": "RUNNING",
                    "config": json.dumps(s["config"]),
                    "runs": {"edges": []},
                }
            }
        }

    def op_CreateAgent(self, v):
        agent = gid("Agent", next(self.ids))
        self.agents[agent] = v["sweep"]
        return {"createAgent": {"agent": {"id": agent}}}

    def op_Heartbeat(self, v):
        sweep, commands = self.sweeps[self.agents[v["id"]]], []
        if not json.loads(v["runState"] or "{}"):  # an idle agent gets the next run, or has to exit
            commands = [{"id": f"c{next(self.ids)}", "type": "exit"}]
            if sweep["queue"]:
                run_id, params = uuid.uuid4().hex[:8], sweep["queue"].pop(0)
                sweep["runs"][run_id] = params
                commands[0].update(
                    type="run",
                    run_id=run_id,
                    program=sweep["config"].get("program"),
                    args={k: {"value": x} for k, x in params.items()},
                )
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    # -- the public API: projects and their runs (filters are not applied), views and reports ------
    def op_GetDefaultEntity(self, v):
        return {"viewer": {"id": "1", "entity": self.entity}}

    def op_GetProjects(self, v):
        names = sorted({run["project"] for run in self.runs.values() if run["entity"] == v["entity"]})
        nodes = [
            {
                "__typename": "Project",
                "id": gid("Project", name),
                "name": name,
                "entityName": v["entity"],
                "createdAt": "2026-01-01T00:00:00Z",
                "isBenchmark": False,
                "user": None,
            }
            for name in names
        ]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node} for node in nodes]}}

    def op_ProjectInternalId(self, v):
        return {"project": {"id": gid("Project", v["projectName"]), "internalId": gid("Internal", v["projectName"])}}

    def op_Runs(self, v):
        found = [r for r in self.runs.values() if (r["entity"], r["project"]) == (v["entity"], v["project"])]
        if not found:
            return {"project": None}
        edges = [
            {
                "cursor": run["id"],
                "node": {
                    **self.bucket(run),
                    "projectId": "1",
                    "state": run["state"],
                    "createdAt": "2026-01-01T00:00:00Z",
                    "systemMetrics": "{}",
                    "group": run["groupName"],
                    "jobType": run["jobType"],
                    "user": {"name": self.entity, "username": self.entity},
                    "historyKeys": None,
                },
            }
            for run in found
        ]
        page = {"endCursor": None, "hasNextPage": False}
        runs = {"edges": edges, "pageInfo": page}
        return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False, "runs": runs}}

    def op_Views(self, v):
        """One view a page, so that whoever looks for one turns pages."""
        asked = (v["entity"], v["project"], v["type"])
        found = [view for view in self.views.values() if (view["entity"], view["project"], view["type"]) == asked]
        start = int(v["after"] or 0)
        edges = [{"node": {k: view[k] for k in ("id", "name", "displayName")}} for view in found[start : start + 1]]
        page = {"endCursor": str(start + 1), "hasNextPage": start + 1 < len(found)}
        return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}

    def op_UpsertView2(self, v):
        inserted = v.get("id") is None
        key = gid("View", next(self.ids)) if inserted else v["id"]
        given = {k: v[k] for k in ("type", "name", "displayName", "description")}
        self.views.setdefault(key, {}).update(
            given, id=key, entity=v["entityName"], project=v["projectName"], spec=json.loads(v["spec"])
        )
        return {
            "upsertView": {
                "inserted": inserted,
                "view": {
                    **given,
                    "id": key,
                    "spec": v["spec"],
                    "updatedAt": "2026-01-01T00:00:00Z",
                    "project": {"id": "1", "name": v["projectName"], "entityName": v["entityName"]},
                },
            }
        }

    op_upsertView = op_UpsertView2

    # -- filestream and uploads -------------------------------------------------------------------
    def filestream(self, key, body, shared):
        run = self.runs[key]
        for name, chunk in (body.get("files") or {}).items():
            lines, table = chunk["content"], re.sub(r"^wandb-|\.jsonl?$", "", name)
            if table == "summary":
                run["summary"].update(json.loads(lines[-1]))
            else:  # writers of a shared run do not agree on offsets: the server appends
                rows = run[table] if table in ("history", "events") else run["console"]
                at = len(rows) if shared else chunk.get("offset", 0)
                rows[at : at + len(lines)] = [x if rows is run["console"] else json.loads(x) for x in lines]
        if body.get("preempting"):
            run["state"] = "preempting"
        if body.get("complete"):
            run["exitcode"] = body["exitcode"]
            run["state"] = (
                "finished" if not run["exitcode"] else ("preempted" if run["state"] == "preempting" else "failed")
            )
        return {}

    def upload(self, kind, owner, name, data):
        (self.run(owner) if kind == "run" else self.artifacts[owner])["files"][name] = data
        return {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    app: FakeWandb

    def log_message(self, *args):
        pass

    def answer(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        if self.app.hanging.is_set():
            self.app.closed.wait()
        if self.app.refusal:
            return self.app.refusal, {"errors": [{"message": "refused"}]}
        parts = unquote(urlsplit(self.path).path).strip("/").split("/", 3)
        try:
            with self.app.lock:
                if parts == ["graphql"]:
                    return 200, self.app.graphql(json.loads(data))
                if parts[0] == "upload" and self.command == "PUT":
                    return 200, self.app.upload(*parts[1:], data)
                if parts[0] == "files" and parts[-1].endswith("/file_stream"):
                    key = (parts[1], parts[2], parts[3].removesuffix("/file_stream"))
                    shared = "X-Wandb-Use-Async-Filestream" in self.headers
                    return 200, self.app.filestream(key, json.loads(data), shared)
        except Exception as e:  # 400: the client does not retry it
            self.app.errors.append(f"{self.command} {self.path}: {e!r}")
            return 400, {"errors": [{"message": repr(e)}]}
        self.app.errors.append(f"{self.command} {self.path}")
        return 404, {}

    def do_POST(self):
        code, payload = self.answer()
        data = json.dumps(payload).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_GET = do_POST
