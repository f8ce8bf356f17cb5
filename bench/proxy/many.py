"""Configurations with many destinations: each a cluster with one endpoint, found by its host name.

The endpoint is the same upstream in all, so that each can be asked. Weir's names its pod, as the control plane's do, so that it has
series; the peers' are as lean as they can be.
"""

import json

import peers

HOST = "service-{}.bench.svc"
TYPES = "type.googleapis.com/envoy.extensions.filters"


def envoy(count, values, described=False):
    """Envoy's bootstrap, which Weir's proxy starts from as well."""
    clusters, hosts = [], []
    for number in range(count):
        name = f"80|bench|service-{number}.outbound"
        endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": values["UPSTREAM"]}}}}
        if described:
            endpoint["metadata"] = {"filter_metadata": {"weir": {
                "namespace": "bench", "pod": f"service-{number}-5df889bcff-bbbbb", "owner": f"service-{number}",
                "owner_kind": "deployment", "service": f"service-{number}",
            }}}
        assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
        clusters.append({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment})
        routes = [{"name": "all", "match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}]
        hosts.append({"name": f"service-{number}", "domains": [HOST.format(number)], "routes": routes})
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router", "dynamic_stats": False}}
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "web", "codec_type": "HTTP1",
        "generate_request_id": False, "stream_idle_timeout": "0s", "http_filters": [router],
        "route_config": {"name": "web", "virtual_hosts": hosts},
    }
    listener = {
        "name": "web", "address": {"socket_address": {"address": "127.0.0.1", "port_value": values["PORT"]}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }
    if described:
        listener["traffic_direction"] = "OUTBOUND"
    return json.dumps({
        "node": {"id": "client.bench", "cluster": "bench"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": values["ADMIN"]}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    })


def haproxy(count, values):
    lines = peers.fill("haproxy-http1.cfg", values).split("backend upstream")[0].rstrip().splitlines()
    lines[-1] = f"  use_backend %[req.hdr(host),field(1,:),map({values['DIR']}/hosts-{count}.map)]"
    # HAProxy reads the table of hosts from a file of its own.
    with open(f"{values['DIR']}/hosts-{count}.map", "w", encoding="ascii") as table:
        table.writelines(f"{HOST.format(number)} service-{number}\n" for number in range(count))
    for number in range(count):
        lines += [f"backend service-{number}", f"  server upstream 127.0.0.1:{values['UPSTREAM']}"]
    return "\n".join(lines) + "\n"


def nginx(count, values):
    head, rest = peers.fill("nginx-http1.conf", values).split("  upstream upstream {", 1)
    server = "  server {" + rest.split("  server {", 1)[1]
    ups = "".join(f"  upstream service-{n} {{ server 127.0.0.1:{values['UPSTREAM']}; keepalive 16; }}\n" for n in range(count))
    table = "".join(f"    {HOST.format(n)} service-{n};\n" for n in range(count))
    size = "  map_hash_max_size 262144;\n  map_hash_bucket_size 128;\n"
    return f"{head}{size}{ups}  map $host $service {{\n{table}  }}\n{server.replace('http://upstream;', 'http://$service;')}"


def text(name, count):
    """A function that makes the configuration once the ports are known."""
    if name == "haproxy":
        return lambda values: (haproxy(count, values), "cfg")
    if name == "nginx":
        return lambda values: (nginx(count, values), "conf")
    return lambda values: (envoy(count, values, described=name == "weir"), "json")
