"""Stands between the two ends of a move, knows the framing of migration/protocol.h, and does something at one
chosen message: before it is passed on, or right after."""

import socket
import struct
import threading

KINDS = {name: number for number, name in enumerate(
    ("Hello", "Accept", "Refuse", "Begin", "Register", "Registered", "Pages", "Zero", "State", "Ready", "Commit",
     "Running", "Abort", "Ping", "Sync", "Synced", "Verify", "Missing", "Offer", "Fetch", "Left", "Arrived", "Resume"), 1)}
NAMES = {number: name for name, number in KINDS.items()}
PREAMBLE = struct.Struct("<8sII")
HEADER = struct.Struct("<IIIIQ")
MAGIC = 0x54574447


class Gone(Exception):
    pass


class Proxy:
    """Listens on `address` and passes one connection on to `target`.

    When the message `kind` ("Preamble" or a name of KINDS) comes from the `side` ("source" or "destination"),
    `action` happens: a callable, or "drop" (both connections are closed), or "freeze" (nothing is passed on
    any more, in either direction, and nothing is closed, until close()). `after`: once it was passed on. A
    callable that returns "drop" is followed by that.
    """

    def __init__(self, target, side, kind, action, after=False, host="127.0.0.1"):
        self.target, self.side, self.kind, self.action, self.after = target, side, kind, action, after
        self.listener = socket.create_server((host, 0))
        self.address = f"{host}:%d" % self.listener.getsockname()[1]
        self.seen = []  # (side, kind) in order
        self.acted = threading.Event()
        self.frozen = threading.Event()
        self.ends = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        try:
            source, _ = self.listener.accept()
            host, port = self.target.rsplit(":", 1)
            destination = socket.create_connection((host, int(port)))
        except OSError:
            return
        self.ends = [source, destination]
        for end in self.ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for side, a, b in (("source", source, destination), ("destination", destination, source)):
            threading.Thread(target=self._pass_on, args=(side, a, b), daemon=True).start()

    def _pass_on(self, side, here, there):
        try:
            self._message(side, "Preamble", here, there, self._read(here, PREAMBLE.size), 0)
            while True:
                header = self._read(here, HEADER.size)
                magic, kind, _, _, length = HEADER.unpack(header)
                if magic != MAGIC:
                    raise AssertionError(f"the {side} broke the framing: {header.hex()}")
                self._message(side, NAMES.get(kind, str(kind)), here, there, header, length)
        except (OSError, Gone):
            if not self.frozen.is_set():
                self.close()

    def _message(self, side, kind, here, there, header, length):
        if kind != "Ping":
            self.seen.append((side, kind))
        matches = (side, kind) == (self.side, self.kind) and not self.acted.is_set()
        if matches and not self.after:
            self._act()
        self._write(there, header)
        while length:
            piece = self._read(here, min(length, 1 << 20))
            self._write(there, self.change(kind, piece))
            length -= len(piece)
        if matches and self.after:
            self._act()

    def _act(self):
        action = self.action() if callable(self.action) else self.action
        if action == "freeze":
            self.frozen.set()
        self.acted.set()
        if action == "drop":
            self.close()
        if action in ("drop", "freeze"):
            raise Gone

    def _write(self, there, data):
        if self.frozen.is_set():
            raise Gone
        there.sendall(data)

    def _read(self, here, size):
        data = bytearray()
        while len(data) < size:
            piece = here.recv(size - len(data))
            if not piece or self.frozen.is_set():
                raise Gone
            data += piece
        return bytes(data)

    def change(self, kind, piece):
        """What is passed on instead of this piece of a message's payload; for a test to replace."""
        return piece

    def close(self):
        for end in self.ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
        self.listener.close()
