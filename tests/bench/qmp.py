"""QEMU's control socket, as far as the benches need it."""

import json
import socket
import time


class Qmp:
    def __init__(self, path):
        for _ in range(500):
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(str(path))
                break
            except OSError:
                time.sleep(0.02)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait_for_end(self):
        """Waits for the event that says how the move ended."""
        while True:
            event = json.loads(self.lines.readline())
            if event.get("event") == "MIGRATION" and event["data"]["status"] in ("completed", "failed"):
                return
