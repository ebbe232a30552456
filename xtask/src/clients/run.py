"""Clients of the API that know nothing of this project, against a running monitor.

    run.py MONITOR PAYLOAD DOCUMENT SCRATCH

MONITOR is the executable, PAYLOAD a kernel that runs for ever, DOCUMENT the committed OpenAPI document, SCRATCH an empty
folder. Each step prints a line; what is wrong ends the script with a status other than 0.
"""

import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time

FOLDER = pathlib.Path(__file__).resolve().parent
LIMIT = 30  # seconds that anything may take
PORT_HOST = "127.0.0.1"
# Bytes of addresses that a monitor may have: a machine of a random size must not take the host's memory.
ADDRESSES = 16 << 30


def main():
    monitor, payload, document, scratch = (pathlib.Path(word).resolve() for word in sys.argv[1:])
    os.chdir(scratch)
    # The monitor sees nothing but this folder.
    payload = pathlib.Path(shutil.copy(payload, scratch / "payload"))
    with open("disk.raw", "wb") as disk:
        disk.truncate(1 << 20)
    valid(document)
    with Monitor(monitor, scratch) as one:
        served(one, document)
        generated(one, document, payload)
        counted(one, payload)
    with Monitor(monitor, scratch) as one:
        attacked(one, payload)


def step(text):
    print(f"clients: {text}", flush=True)


class Monitor:
    """A running monitor, confined to its folder, and a TCP port that leads to its socket."""

    def __init__(self, program, folder):
        self.socket = folder / "api"
        words = ["--api-socket", f"path={self.socket}", "--landlock"]
        words += ["--landlock-rules", f"path={folder},access=rw", "path=/dev/urandom,access=r"]
        log = open(folder / "log", "ab")
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        self.process = subprocess.Popen(
            [program, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, preexec_fn=limit
        )
        self.port = bridge(self.socket)

    def __enter__(self):
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                connect(self.socket).close()
                return self
            except OSError:
                assert self.process.poll() is None, "the monitor ended at its start"
                assert time.monotonic() < deadline, "the monitor does not listen"
                time.sleep(0.02)

    def __exit__(self, *why):
        ended = self.process.poll()
        if ended is None:
            self.ask("PUT", "vmm.shutdown")
            try:
                ended = self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        if why[0] is None:
            assert ended == 0, f"the monitor ended with {ended}"

    def url(self):
        return f"http://{PORT_HOST}:{self.port}/api/v1"

    def ask(self, method, name, body=None):
        """Status, media type and bytes of an answer."""
        import http.client

        client = http.client.HTTPConnection(PORT_HOST, self.port, timeout=LIMIT)
        text = None if body is None else json.dumps(body)
        client.request(method, f"/api/v1/{name}", text)
        answer = client.getresponse()
        return answer.status, answer.headers["content-type"], answer.read()


def connect(path):
    one = socket.socket(socket.AF_UNIX)
    one.connect(str(path))
    return one


def bridge(path):
    """A port of this host that leads to the Unix socket."""
    listener = socket.create_server((PORT_HOST, 0))

    def pump(source, sink):
        try:
            while chunk := source.recv(1 << 16):
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for one in (source, sink):
                one.close()

    def serve():
        while True:
            client, _ = listener.accept()
            try:
                server = connect(path)
            except OSError:
                client.close()
                continue
            for ends in ((client, server), (server, client)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def valid(document):
    from openapi_spec_validator import validate

    validate(json.loads(document.read_text()))
    step("the document is valid OpenAPI")


def served(monitor, document):
    status, media, body = monitor.ask("GET", "openapi.json")
    assert (status, media) == (200, "application/json"), (status, media)
    assert json.loads(body) == json.loads(document.read_text())
    step("the document that is served is the committed one")


def machine(payload):
    return {
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
        "memory": {"size": 64 << 20},
        "payload": {"kernel": str(payload)},
        "serial": {"mode": "Null"},
        "console": {"mode": "Off"},
        "pmem": [{"file": ".", "size": 2 << 20}],
        "disks": [{"path": "disk.raw", "image_type": "Raw", "id": "disk"}],
    }


def generated(monitor, document, payload):
    """Makes a client of the document, and has it lead a machine through its life."""
    command = ["openapi-python-client", "generate", "--path", document, "--output-path", "made", "--meta", "none"]
    subprocess.run([sys.executable, "-m", *command_of(command)], check=True)
    sys.path.insert(0, os.getcwd())
    from made import Client
    from made.api import default
    from made.models import VmConfig, VmInfo, VmmPingResponse, VmRemoveDevice, VmResize, VmState

    client = Client(base_url=monitor.url(), timeout=LIMIT)

    def call(name, status, **arguments):
        module = __import__(f"made.api.default.{name}", fromlist=["sync_detailed"])
        answer = module.sync_detailed(client=client, **arguments)
        assert answer.status_code == status, (name, answer)
        return answer.parsed

    ping = call("vmm_ping_get", 200)
    assert isinstance(ping, VmmPingResponse) and ping.pid == monitor.process.pid, ping
    call("vm_info_get", 404)
    call("create_vm", 204, body=VmConfig.from_dict(machine(payload)))
    assert call("vm_info_get", 200).state == VmState.CREATED
    call("boot_vm", 204)
    info = call("vm_info_get", 200)
    assert isinstance(info, VmInfo) and info.state == VmState.RUNNING, info
    assert info.memory_actual_size == 64 << 20
    # What one is told of a machine, one can ask for again.
    assert VmConfig.from_dict(info.config.to_dict()) == info.config
    call("pause_vm", 204)
    assert call("vm_info_get", 200).state == VmState.PAUSED
    call("resume_vm", 204)
    call("vm_remove_device_put", 500, body=VmRemoveDevice(id="nothing"))
    call("vm_resize_put", 204, body=VmResize(desired_vcpus=1))
    call("vm_counters_get", 200)
    call("reboot_vm", 204)
    call("shutdown_vm", 204)
    call("delete_vm", 204)
    step("a client made of the document leads a machine through its life")


def command_of(command):
    """A console script as a module, so that it is the one of this environment."""
    return [command[0].replace("-", "_"), *command[1:]]


def counted(monitor, payload):
    """Reads the metrics, without a machine and with one that has a disk."""
    from prometheus_client.parser import text_string_to_metric_families

    def families():
        status, media, body = monitor.ask("GET", "metrics")
        assert (status, media) == (200, "text/plain; version=0.0.4"), (status, media)
        return {family.name: family for family in text_string_to_metric_families(body.decode())}

    def state(all):
        samples = all["cloud_hypervisor_vm_state"].samples
        return [sample.labels["state"] for sample in samples if sample.value == 1]

    assert state(families()) == ["Absent"]
    assert monitor.ask("PUT", "vm.create", machine(payload))[0] == 204
    assert monitor.ask("PUT", "vm.boot")[0] == 204
    all = families()
    assert state(all) == ["Running"]
    reads = all["cloud_hypervisor_device_read_ops"]
    assert reads.type == "counter" and reads.documentation, reads
    assert [(sample.labels, sample.value) for sample in reads.samples] == [({"device": "disk"}, 0)], reads
    latency = all["cloud_hypervisor_device_read_latency_seconds"]
    bounds = [float(sample.labels["le"]) for sample in latency.samples if sample.name.endswith("_bucket")]
    assert latency.type == "histogram" and bounds == sorted(bounds) and bounds[-1] == float("inf"), latency
    assert monitor.ask("PUT", "vm.delete")[0] == 204
    step(f"another parser reads the metrics: {len(all)} families")


# What the reference wants otherwise than these checks: it refuses with 500 what the machine's state forbids, and other
# methods with 400. Whether data that no schema forbids make sense is for the monitor to say.
UNCHECKED = "not_a_server_error,unsupported_method,positive_data_acceptance,use_after_free,ensure_resource_availability"
# Of these one ends the monitor, and one answers for as long as one listens.
LEFT_OUT = ("/vmm.shutdown", "/events")


def without_width(members):
    if members.get("format") == "int64":
        del members["format"]
    return members


def attacked(monitor, payload):
    """Sends what the document allows, and what it forbids, to a monitor with a machine."""
    assert monitor.ask("PUT", "vm.create", machine(payload))[0] == 204
    assert monitor.ask("PUT", "vm.boot")[0] == 204
    # Widths are for makers of clients: what has 64 bits has no sign here, which OpenAPI has no word for.
    document = json.loads(monitor.ask("GET", "openapi.json")[2], object_hook=without_width)
    # Here these can be left out, and in the reference not: the document has clients give them.
    for name in ("CpusConfig", "MemoryConfig"):
        del document["components"]["schemas"][name]["required"]
    pathlib.Path("document.json").write_text(json.dumps(document))
    words = ["run", "document.json", "--url", monitor.url(), "--exclude-checks", UNCHECKED]
    words += ["--request-timeout", str(LIMIT), "--workers", "2", "--max-examples", "100", "--seed", "1"]
    words += ["--phases", "examples,coverage,fuzzing", "--generation-database", "none", "--continue-on-failure"]
    words += ["--warnings", "off"]
    for path in LEFT_OUT:
        words += ["--exclude-path", path]
    environment = dict(os.environ, HYPOTHESIS_STORAGE_DIRECTORY="hypothesis", SCHEMATHESIS_HOOKS="hooks", PYTHONPATH=str(FOLDER))
    subprocess.run([sys.executable, "-m", "schemathesis.cli", *words], check=True, env=environment)
    assert monitor.process.poll() is None, "the monitor has ended"
    assert monitor.ask("GET", "vmm.ping")[0] == 200
    assert monitor.ask("PUT", "vm.delete")[0] == 204
    step("schemathesis finds nothing")


main()
