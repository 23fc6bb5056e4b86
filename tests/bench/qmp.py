"""QEMU's control socket, as far as the benches need it."""

import json
import select
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
        self.rest = b""
        self.message()
        self("qmp_capabilities")

    def message(self, seconds=300):
        """The next one; None when none comes within that time."""
        while b"\n" not in self.rest:
            if not select.select([self.socket], [], [], seconds)[0]:
                return None
            if not (data := self.socket.recv(65536)):
                raise RuntimeError("QEMU has ended")
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    def __call__(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while answer := self.message():
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise RuntimeError(f"{command}: no answer")

    def wait_for_end(self, seconds=300):
        """Waits for the event that says how the move ended; false when it has not come after that long."""
        deadline = time.monotonic() + seconds
        while event := self.message(max(0, deadline - time.monotonic())):
            if event.get("event") == "MIGRATION" and event["data"]["status"] in ("completed", "failed"):
                return True
        return False
