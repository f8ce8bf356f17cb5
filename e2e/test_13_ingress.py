"""The gateway in depth: Ingresses, certificates and the Gateway API, with real curl from outside the cluster. On both engines."""

import json
import re
import subprocess
import time

import pytest

from conftest import start
from harness import ROOT, tool, wait_until
from manifests import deployment, service
from scenarios import play, steps
from scenarios.certificates import certificate


@pytest.fixture(scope="module", params=play.ENGINES)
def mesh(request):
    """A mesh whose gateway is of this engine."""
    running = start(f"ingress-{request.param}", ["--proxy", request.param])
    running.engine = request.param
    try:
        yield running.wait_ready()
    finally:
        try:
            running.stop()
        finally:
            running.remove()


@pytest.fixture
def shop(request, mesh):
    """A namespace with three echo applications behind Services `one`, `two` (port 80) and `three` (port 9000, named `api`)."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.removeprefix("test_"))
    mesh.kubectl("create", "namespace", name)
    stage = steps.Stage(mesh, mesh.engine, name, print)
    text = "".join(
        deployment(app, ["http-echo", "--listen", "0.0.0.0:8080"], ports={"web": 8080}, probe=8080)
        + service(app, port, "web")
        for app, port in (("one", 80), ("two", 80), ("three", 9000))
    ).replace("- {port: 9000,", "- {name: api, port: 9000,")
    stage.kubectl("apply", "-f", "-", input=text)
    wait_until("the applications", lambda: mesh.pods_ready(name, 3), 60)
    yield stage
    stage.abandon()
    mesh.kubectl("delete", "namespace", name, "--wait=false", check=False)


class Reply:
    """What curl saw."""

    def __init__(self, text: str, stats: dict, verbose: str):
        head, _, self.body = text.replace("\r\n", "\n").partition("\n\n")
        while head.startswith("HTTP/1.1 1"):
            head, _, self.body = self.body.partition("\n\n")
        self.lines = [tuple(line.split(": ", 1)) if ": " in line else (line.rstrip(":"), "") for line in head.splitlines()[1:]]
        self.status, self.version, self.verbose = stats["http_code"], str(stats["http_version"]), verbose
        self.seconds = stats["time_total"]

    def header(self, name: str) -> str | None:
        values = [value for header, value in self.lines if header.lower() == name]
        return ", ".join(values) if values else None

    @property
    def got(self) -> dict:
        """What the application got: method, path, headers."""
        return json.loads(self.body)

    def server(self) -> str:
        """Which application answered."""
        return (self.header("x-served-by") or "").rsplit("-", 2)[0]


def curl(mesh, url: str, *options: str) -> Reply:
    """A request to the gateway, whatever the URL's host is."""
    port = mesh.https_port if url.startswith("https:") else mesh.http_port
    done = subprocess.run(
        [tool("curl"), "-sk", "-i", "-v", "-m", "10", "--connect-to", f"::127.0.0.1:{port}", "-w", "\n%{json}", *options, url],
        capture_output=True, text=True, timeout=20,
    )
    text, _, stats = done.stdout.rpartition("\n")
    assert done.returncode == 0, f"curl {url}: exit {done.returncode}\n{done.stderr[-1500:]}"
    return Reply(text, json.loads(stats), done.stderr)


def until(mesh, what: str, url: str, *options: str, timeout: float = 10, **wanted) -> Reply:
    """Asks until the reply has these properties (`status=200`, `server="one"`)."""

    def probe():
        reply = curl(mesh, url, *options)
        for name, value in wanted.items():
            seen = getattr(reply, name)
            seen = seen() if callable(seen) else seen
            assert seen == value, f"{name} is {seen!r}: {reply.body[:300]}"
        return reply

    return wait_until(f"{what}: {url} with {wanted}", probe, timeout)


def served_certificate(mesh, name: str | None) -> str:
    """SHA-256 of the certificate that the gateway shows to a client that asks for this name."""
    import hashlib
    import socket
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", mesh.https_port), 5) as raw, context.wrap_socket(raw, server_hostname=name) as connection:
        return hashlib.sha256(connection.getpeercert(binary_form=True)).hexdigest()


def ingress(name: str, rules: str, tls: str = "[]", annotations: str = "{}", default: str = "") -> str:
    return f"""
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, annotations: {annotations}}}
spec:
  ingressClassName: weir
  tls: {tls}
  rules: {rules}
  {default}
"""


def rule(host: str | None, *paths: tuple[str, str, str]) -> str:
    """A rule in YAML's flow form; a path is (path, type, backend), a backend a Service or Service:port."""
    def backend(name):
        app, _, port = name.partition(":")
        return f"{{service: {{name: {app}, port: {{{f'number: {port}' if port.isdigit() else f'name: {port}' if port else 'number: 80'}}}}}}}"

    items = ", ".join(f"{{path: {path}, pathType: {kind}, backend: {backend(name)}}}" for path, kind, name in paths)
    return f"{{{f'host: {json.dumps(host)}, ' if host else ''}http: {{paths: [{items}]}}}}"


def apply(stage, text: str):
    stage.kubectl("apply", "-f", "-", input=text)


def address_of(mesh) -> str:
    """Where the gateway's own Service says that it is reached."""
    return mesh.get("service", "traffic-ingress", "-n", "default")["status"]["loadBalancer"]["ingress"][0]["ip"]


def events(stage, kind: str, name: str) -> list[str]:
    items = stage.mesh.get("events", "-n", stage.namespace)["items"]
    return [item["message"] for item in items if item["involvedObject"]["kind"] == kind and item["involvedObject"]["name"] == name]


# -- Ingress


def test_hosts_and_paths(mesh, shop):
    """The most specific host, then the exact path, then the longest prefix; whole path elements; named ports; a default backend."""
    apply(shop, ingress("shop", "[" + ", ".join([
        rule("a.shop.test", ("/", "Prefix", "one"), ("/two", "Prefix", "two"), ("/two/exact", "Exact", "three:api"), ("/two/long", "Prefix", "one")),
        rule("*.shop.test", ("/", "Prefix", "two")),
        rule("b.c.shop.test", ("/", "ImplementationSpecific", "three:9000")),
    ]) + "]"))
    until(mesh, "the gateway", "http://a.shop.test/", status=200, server="one", timeout=20)
    for host, path, server in (
        ("a.shop.test", "/other", "one"), ("a.shop.test", "/two", "two"), ("a.shop.test", "/two/", "two"), ("a.shop.test", "/two/x?y=z", "two"),
        ("a.shop.test", "/twofold", "one"), ("a.shop.test", "/two/exact", "three"), ("a.shop.test", "/two/exact/", "two"),
        ("a.shop.test", "/two/long/way", "one"), ("A.SHOP.test", "/two", "two"), ("a.shop.test:8080", "/two", "two"),
        ("other.shop.test", "/", "two"), ("b.c.shop.test", "/", "three"),
    ):
        reply = curl(mesh, f"http://{host}{path}")
        assert (reply.status, reply.server()) == (200, server), f"{host}{path}: {reply.status} by {reply.server()}"
        assert reply.got["path"] == path, "the path arrives as it was sent"
    # A wildcard stands for one label, and never for none.
    for host in ("shop.test", "elsewhere.test"):
        assert curl(mesh, f"http://{host}/").status == 404, host
    apply(shop, ingress("rest", "[]", default="defaultBackend: {service: {name: three, port: {name: api}}}"))
    until(mesh, "the default backend", "http://elsewhere.test/any", status=200, server="three")
    assert curl(mesh, "http://a.shop.test/two").server() == "two"
    shop.kubectl("delete", "ingress", "rest", "shop")
    until(mesh, "an end", "http://a.shop.test/", status=404)
    until(mesh, "an end", "http://elsewhere.test/any", status=404)


def test_forwarded_headers(mesh, shop):
    """The application learns the client's address and scheme, and not what strangers say of themselves."""
    chain, key, _ = certificate(["fwd.test"])
    tls_secret(shop, "fwd", chain, key)
    apply(shop, ingress("fwd", f"[{rule('fwd.test', ('/', 'Prefix', 'one'))}]", tls="[{hosts: [fwd.test], secretName: fwd}]",
                        annotations='{traffic.ingress.ssl-redirect: "false"}'))
    reply = until(mesh, "the gateway", "http://fwd.test/", "-H", "X-Forwarded-For: 192.0.2.9", "-H", "X-Forwarded-Proto: https", status=200, timeout=20)
    headers = reply.got["headers"]
    assert headers["x-forwarded-proto"] == ["http"], headers
    addresses = ", ".join(headers["x-forwarded-for"]).split(",")
    # The gateway's peer is the node that `weir up` forwards from; what the client said stays in front of it.
    assert len(addresses) == 2 and addresses[0].strip() == "192.0.2.9" and re.fullmatch(r"[\d.]+", addresses[1].strip()), addresses
    assert headers["host"] == ["fwd.test"], headers
    reply = until(mesh, "TLS", "https://fwd.test/", status=200)
    assert reply.got["headers"]["x-forwarded-proto"] == ["https"]
    print(mesh.engine, addresses)


def tls_secret(stage, name: str, chain: str, key: str):
    apply(stage, json.dumps({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
        "stringData": {"tls.crt": chain, "tls.key": key},
    }))


def test_certificates_by_name(mesh, shop):
    """Each client is shown the certificate of the name it asks for: exact before wildcard; HTTP/2 where the client offers it."""
    digests = {}
    for name, hosts in (("exact", ["www.sni.test"]), ("wild", ["*.sni.test"]), ("other", ["other.test"])):
        chain, key, digests[name] = certificate(hosts)
        tls_secret(shop, name, chain, key)
    apply(shop, ingress("sni", "[" + ", ".join([
        rule("www.sni.test", ("/", "Prefix", "one")), rule("*.sni.test", ("/", "Prefix", "two")), rule("other.test", ("/", "Prefix", "three:9000")),
    ]) + "]", tls="[{hosts: [www.sni.test], secretName: exact}, {hosts: ['*.sni.test'], secretName: wild}, {hosts: [other.test], secretName: other}]"))
    until(mesh, "TLS", "https://other.test/", status=200, server="three", timeout=20)
    for host, secret, server in (
        ("www.sni.test", "exact", "one"), ("any.sni.test", "wild", "two"), ("other.test", "other", "three"),
    ):
        assert served_certificate(mesh, host) == digests[secret], f"{host} is not shown the certificate of {secret}"
        reply = curl(mesh, f"https://{host}/path", "--http2")
        assert (reply.status, reply.server(), reply.version) == (200, server, "2"), f"{host}: {reply.status} {reply.server()} HTTP/{reply.version}"
        assert reply.got["path"] == "/path" and reply.got["headers"]["host"] == [host]
        reply = curl(mesh, f"https://{host}/path", "--http1.1")
        assert (reply.status, reply.server(), reply.version) == (200, server, "1.1")
    # In clear text: the same place by TLS, with the query, for any method.
    reply = curl(mesh, "http://www.sni.test/a/b?c=d", "-X", "POST", "-d", "x")
    assert reply.status == 308 and reply.header("location") == "https://www.sni.test/a/b?c=d", reply.header("location")
    assert curl(mesh, "http://any.sni.test/").header("location") == "https://any.sni.test/"
    # A certificate that is not there harms its own host alone, and is told of.
    shop.kubectl("delete", "secret", "wild")
    wait_until("an event about the missing Secret", lambda: any("wild" in text for text in events(shop, "Ingress", "sni")), 10)
    assert served_certificate(mesh, "www.sni.test") == digests["exact"]
    chain, key, digests["wild"] = certificate(["*.sni.test"])
    tls_secret(shop, "wild", chain, key)
    wait_until("the new certificate", lambda: served_certificate(mesh, "more.sni.test") == digests["wild"], 10)


def test_certificate_changes_under_load(mesh, shop):
    """Five certificates one after the other: each is served at once, and neither kept nor new connections notice."""
    chain, key, digest = certificate(["swap.test"])
    tls_secret(shop, "swap", chain, key)
    apply(shop, ingress("swap", f"[{rule('swap.test', ('/', 'Prefix', 'one'))}]", tls="[{hosts: [swap.test], secretName: swap}]"))
    until(mesh, "TLS", "https://swap.test/", status=200, timeout=20)
    for keep in (True, False):
        steps.load(shop, {"load": "https://swap.test/", "from": "outside", "keep": keep, "rate": 100})
    took = []
    for _ in range(5):
        chain, key, digest = certificate(["swap.test"])
        tls_secret(shop, "swap", chain, key)
        changed = time.monotonic()
        wait_until("the next certificate", lambda: served_certificate(mesh, "swap.test") == digest, 10, 0.02)
        took.append(time.monotonic() - changed)
    # What is no certificate changes nothing, and is told of.
    tls_secret(shop, "swap", "no certificate", key)
    wait_until("an event about the wrong Secret", lambda: events(shop, "Secret", "swap") or events(shop, "Ingress", "swap"), 10)
    assert served_certificate(mesh, "swap.test") == digest
    steps.finish(shop)
    print(f"{mesh.engine}: new certificates served after {', '.join(f'{seconds:.2f}' for seconds in took)} s")


def test_status_and_problems(mesh, shop):
    """`kubectl get ingress` shows where it is reached; a backend that is not there is told of and answered 503, others are served."""
    apply(shop, ingress("status", f"[{rule('status.test', ('/', 'Prefix', 'one'), ('/gone', 'Prefix', 'nobody'))}]"))
    until(mesh, "the gateway", "http://status.test/", status=200, timeout=20)
    wait_until("an address", lambda: address_of(mesh) in shop.kubectl("get", "ingress", "status"), 10)
    assert curl(mesh, "http://status.test/gone").status == 503
    wait_until("an event about the missing Service", lambda: any("nobody" in text for text in events(shop, "Ingress", "status")), 10)
    assert "nobody" in mesh.weir("check", check=False).stdout
    # It comes, and is served without another change.
    apply(shop, service("nobody", 80, "web", app="two"))
    until(mesh, "the Service that came", "http://status.test/gone", status=200, server="two")
    # Another class is somebody else's.
    apply(shop, ingress("foreign", f"[{rule('foreign.test', ('/', 'Prefix', 'one'))}]").replace("ingressClassName: weir", "ingressClassName: other"))
    apply(shop, ingress("later", f"[{rule('later.test', ('/', 'Prefix', 'one'))}]"))
    until(mesh, "an Ingress made after it", "http://later.test/", status=200)
    assert curl(mesh, "http://foreign.test/").status == 404
    assert not shop.mesh.get("ingress", "foreign", "-n", shop.namespace).get("status", {}).get("loadBalancer", {}).get("ingress")


def test_labels_at_the_gateway(mesh, shop):
    """What a Service's labels say holds at the gateway too, but for faults: outside visitors get none."""
    apply(shop, ingress("labels", f"[{rule('labels.test', ('/', 'Prefix', 'one'))}]"))
    until(mesh, "the gateway", "http://labels.test/", status=200, timeout=20)
    shop.kubectl("label", "service", "one", "traffic.fault.abort.percentage=100", "traffic.fault.abort.status=418", "traffic.request.timeout=300ms")
    until(mesh, "the timeout", "http://labels.test/?delay=2s", status=504)
    assert curl(mesh, "http://labels.test/").status == 200, "no fault at the gateway"


def test_acme_walkthrough(mesh):
    """The way to a certificate from an authority: its challenge is answered in clear text, before and after the host has TLS."""
    path = "/.well-known/acme-challenge/jLpYJvXE4mP32AgP42O4Ws-iT7_Z9St2pOjdlbqhkhA"
    host, samples = "shop.example.com", ROOT / "samples"
    stage = steps.Stage(mesh, mesh.engine, "default", print)
    try:
        stage.kubectl("apply", "-f", str(samples / "http-text-response.yaml"), "-f", str(samples / "acme" / "10-challenge.yaml"))
        apply(stage, deployment("productpage", ["http-echo", "--listen", "0.0.0.0:9080"], probe=9080) + service("productpage", 9080, 9080))
        reply = until(mesh, "the challenge's answer", f"http://{host}{path}", status=200, timeout=30)
        assert reply.body.strip().startswith("jLpYJvXE4mP32AgP42O4Ws-iT7_Z9St2pOjdlbqhkhA."), reply.body
        chain, key, digest = certificate([host])
        tls_secret(stage, "ingressgateway-certs", chain, key)
        stage.kubectl("apply", "-f", str(samples / "acme" / "20-https.yaml"))
        until(mesh, "TLS", f"https://{host}/productpage", status=200, server="productpage", timeout=20)
        assert served_certificate(mesh, host) == digest
        assert curl(mesh, f"http://{host}/productpage").status == 308
        assert curl(mesh, f"http://{host}{path}").status == 200, "the next renewal's challenge is still answered in clear text"
    finally:
        stage.kubectl("delete", "ingress,service,deployment,secret", "acme-challenge", "https-ingress", "http-text-response", "productpage",
                      "ingressgateway-certs", "--ignore-not-found")


# -- Gateway API


GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: weir
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - name: https
    port: 443
    protocol: HTTPS
    hostname: secure.test
    tls: {mode: Terminate, certificateRefs: [{name: front-tls}]}
"""


def route(name: str, host: str, rules: str, section: str = "") -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: front{section}}}]
  hostnames: [{host}]
  rules:
{rules}
"""


def condition(stage, of: str, kind: str, parents: bool = False) -> str:
    """`True (Reason)` of a condition, of the object itself or of its first parent."""
    status = stage.mesh.get(of, "-n", stage.namespace).get("status", {})
    conditions = status["parents"][0]["conditions"] if parents else status["conditions"]
    [found] = [item for item in conditions if item["type"] == kind]
    return f"{found['status']} ({found['reason']})"


@pytest.fixture
def front(mesh, shop):
    """A Gateway with a listener in clear text and one by TLS."""
    chain, key, digest = certificate(["secure.test"])
    tls_secret(shop, "front-tls", chain, key)
    apply(shop, GATEWAY)
    for kind, wanted in (("Accepted", "True (Accepted)"), ("Programmed", "True (Programmed)")):
        wait_until(f"{kind} of the Gateway", lambda kind=kind: condition(shop, "gateway/front", kind) == wanted, 15)
    shop.certificates["front-tls"] = digest
    return shop


def test_gateway_conditions(mesh, front):
    """The class is accepted, listeners count their routes, addresses are told; what is wrong with a route stands in its conditions."""
    [accepted] = [item for item in mesh.get("gatewayclass", "weir")["status"]["conditions"] if item["type"] == "Accepted"]
    assert accepted["status"] == "True", accepted
    apply(front, route("good", "good.test", "  - backendRefs: [{name: one, port: 80}]"))
    until(mesh, "the route", "http://good.test/", status=200, server="one", timeout=15)
    wait_until("Accepted", lambda: condition(front, "httproute/good", "Accepted", True) == "True (Accepted)", 10)
    wait_until("ResolvedRefs", lambda: condition(front, "httproute/good", "ResolvedRefs", True) == "True (ResolvedRefs)", 10)

    def counted():
        status = mesh.get("gateway/front", "-n", front.namespace)["status"]
        listeners = {item["name"]: item for item in status["listeners"]}
        assert status["addresses"][0]["value"] == address_of(mesh), status
        assert listeners["http"]["attachedRoutes"] == 1 and listeners["https"]["attachedRoutes"] == 0, listeners
        assert all(item["status"] == "True" for listener in listeners.values() for item in listener["conditions"] if item["type"] in ("Accepted", "Programmed", "ResolvedRefs")), listeners
        return True

    wait_until("one attached route", counted, 10)
    # Wrong backends: 500 for their share, and a reason.
    apply(front, route("wrong", "wrong.test", "  - backendRefs: [{name: nobody, port: 80}]"))
    until(mesh, "a route without backends", "http://wrong.test/", status=500)
    wait_until("the reason", lambda: condition(front, "httproute/wrong", "ResolvedRefs", True) == "False (BackendNotFound)", 10)
    # A Service of another namespace needs its consent.
    apply(front, route("far", "far.test", "  - backendRefs: [{name: traffic-ingress, namespace: default, port: 80}]"))
    wait_until("the reason", lambda: condition(front, "httproute/far", "ResolvedRefs", True) == "False (RefNotPermitted)", 10)
    # A host that no listener has, on a listener that has one.
    apply(front, route("other", "other.test", "  - backendRefs: [{name: one, port: 80}]", ", sectionName: https"))
    wait_until("the reason", lambda: condition(front, "httproute/other", "Accepted", True) == "False (NoMatchingListenerHostname)", 10)
    assert curl(mesh, "http://good.test/").status == 200, "what is wrong elsewhere changes nothing here"


def test_gateway_tls(mesh, front):
    """A route on the TLS listener, with its certificate, which may change."""
    apply(front, route("secure", "secure.test", "  - backendRefs: [{name: two, port: 80}]", ", sectionName: https"))
    reply = until(mesh, "the route by TLS", "https://secure.test/", "--http2", status=200, server="two", timeout=15)
    assert reply.version == "2" and served_certificate(mesh, "secure.test") == front.certificates["front-tls"]
    assert curl(mesh, "http://secure.test/").status == 404, "the route is on the other listener"
    chain, key, digest = certificate(["secure.test"])
    tls_secret(front, "front-tls", chain, key)
    wait_until("the new certificate", lambda: served_certificate(mesh, "secure.test") == digest, 10)


def test_matches(mesh, front):
    """Path, header, method and query matches, the most specific first, whatever their order."""
    apply(front, route("matches", "match.test", """
  - backendRefs: [{name: one, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /two}}]
    backendRefs: [{name: two, port: 80}]
  - matches:
    - {path: {type: Exact, value: /exact}}
    - {path: {type: PathPrefix, value: /two}, headers: [{name: X-Version, value: "3"}]}
    - {path: {type: RegularExpression, value: "/items/[0-9]+"}}
    - {method: DELETE}
    - {queryParams: [{name: version, value: "3"}]}
    - {headers: [{type: RegularExpression, name: X-User, value: "a.*z"}]}
    backendRefs: [{name: three, port: 9000}]
"""))
    until(mesh, "the route", "http://match.test/exact", status=200, server="three", timeout=15)
    for path, options, server in (
        ("/", [], "one"), ("/two", [], "two"), ("/two/more", [], "two"), ("/twofold", [], "one"), ("/exact", [], "three"), ("/exact/more", [], "one"),
        ("/two", ["-H", "x-version: 3"], "three"), ("/two", ["-H", "x-version: 33"], "two"), ("/items/17", [], "three"), ("/items/17/x", [], "one"),
        ("/items/x", [], "one"), ("/", ["-X", "DELETE"], "three"), ("/?version=3", [], "three"), ("/?version=4", [], "one"),
        ("/?a=b&version=3", [], "three"), ("/", ["-H", "x-user: abcz"], "three"), ("/", ["-H", "x-user: abc"], "one"),
    ):
        reply = curl(mesh, f"http://match.test{path}", *options)
        assert (reply.status, reply.server()) == (200, server), f"{path} {options}: {reply.status} by {reply.server()}"


def test_filters(mesh, front):
    """Header modifiers, redirects and rewrites, of rules and of backends."""
    apply(front, route("filters", "filter.test", """
  - matches: [{path: {type: PathPrefix, value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-Set, value: set}], add: [{name: X-Add, value: added}], remove: [X-Remove]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: Content-Type, value: text/changed}], add: [{name: X-More, value: more}], remove: [X-Served-By]}
    backendRefs: [{name: one, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Backend, value: one}]}}]}]
  - matches: [{path: {type: PathPrefix, value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.test, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /here}}}]
  - matches: [{path: {type: PathPrefix, value: /gone}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /full}}}]
  - matches: [{path: {type: PathPrefix, value: /rewrite}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inside.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /strip}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /whole}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /all}}}]
    backendRefs: [{name: one, port: 80}]
"""))
    reply = until(mesh, "the route", "http://filter.test/headers", "-H", "X-Set: old", "-H", "X-Add: old", "-H", "X-Remove: old", status=200, timeout=15)
    got = reply.got["headers"]
    assert got["x-set"] == ["set"] and ", ".join(got["x-add"]).replace(" ", "") in ("old,added", "old,added") and "x-remove" not in got, got
    assert got["x-backend"] == ["one"], got
    assert reply.header("content-type") == "text/changed" and reply.header("x-more") == "more" and reply.header("x-served-by") is None, reply.lines
    for path, status, location in (
        ("/moved/a?b=c", 301, "https://new.test:8443/here/a?b=c"), ("/moved", 301, "https://new.test:8443/here"), ("/gone/a", 302, "http://filter.test/full"),
    ):
        reply = curl(mesh, f"http://filter.test{path}")
        assert (reply.status, reply.header("location")) == (status, location), f"{path}: {reply.status} {reply.header('location')}"
    for path, arrived, host in (
        ("/rewrite/a?b=c", "/new/a?b=c", "inside.test"), ("/rewrite", "/new", "inside.test"), ("/strip/a", "/a", "filter.test"), ("/strip", "/", "filter.test"),
        ("/whole/a?b=c", "/all?b=c", "filter.test"),
    ):
        reply = curl(mesh, f"http://filter.test{path}")
        assert reply.status == 200, f"{path}: {reply.status}"
        assert (reply.got["path"], reply.got["headers"]["host"]) == (arrived, [host]), f"{path}: {reply.got}"


def test_timeouts_weights_and_mirror(mesh, front):
    """A request timeout, shares by weight, and a mirror that gets a copy and whose answer nobody sees."""
    apply(front, route("misc", "misc.test", """
  - matches: [{path: {type: PathPrefix, value: /slow}}]
    timeouts: {request: 300ms}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /shares}}]
    backendRefs: [{name: one, port: 80, weight: 9}, {name: two, port: 80, weight: 1}, {name: three, port: 9000, weight: 0}]
  - matches: [{path: {type: PathPrefix, value: /mirror}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}]
    backendRefs: [{name: one, port: 80}]
"""))
    # A mirror that fails every request: what it counts is what it was sent.
    apply(front, deployment("copy", ["http-echo", "--listen", "0.0.0.0:8080", "--fail", "1"], ports={"web": 8080}) + service("copy", 80, "web"))
    wait_until("the mirror's pod", lambda: mesh.pods_ready(front.namespace, 4), 30)
    reply = until(mesh, "the timeout", "http://misc.test/slow?delay=3s", status=504, timeout=15)
    assert 0.25 < reply.seconds < 1.5, reply.seconds
    assert curl(mesh, "http://misc.test/slow?delay=50ms").status == 200
    steps.ask(front, {"ask": "http://misc.test/shares", "from": "outside", "count": 300, "keep": True, "expect": {"status": 200, "shares": {"one": 9, "two": 1, "three": 0}}})

    def counted() -> int:
        return json.loads(mesh.exec(front.namespace, front.pod("copy"), "bookinfo", "behaviour", "--port", "8080"))["failed"]

    until(mesh, "the mirror", "http://misc.test/mirror", status=200, server="one")
    wait_until("the mirror's copy", counted, 10)
    before = counted()
    steps.ask(front, {"ask": "http://misc.test/mirror", "from": "outside", "count": 50, "keep": True, "expect": {"status": 200, "shares": {"one": 1}}})
    wait_until("fifty copies", lambda: counted() == before + 50, 10)
    print(f"{mesh.engine}: 50 requests mirrored")
