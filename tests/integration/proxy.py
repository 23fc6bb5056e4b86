"""Stands between the two ends of a move, knows the framing of migration/protocol.h, and does something at one
chosen message: before it is passed on, or right after."""

import select
import socket
import ssl
import struct
import threading

KINDS = {name: number for number, name in enumerate(
    ("Hello", "Accept", "Refuse", "Begin", "Register", "Registered", "Pages", "Zero", "State", "Ready", "Commit",
     "Running", "Abort", "Ping", "Sync", "Synced", "Verify", "Missing", "Offer", "Fetch", "Left", "Arrived", "Resume", "Join",
     "Mark", "Compressed", "Rehearse", "Never"), 1)}
NAMES = {number: name for name, number in KINDS.items()}
PREAMBLE = struct.Struct("<8sII")
HEADER = struct.Struct("<IIIIQ")
MAGIC = 0x54574447


class Gone(Exception):
    pass


class Secure:
    """A socket under TLS for two threads, one of which reads: OpenSSL's objects are for one at a time."""

    def __init__(self, raw, files, server_side):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files["ca"])
        context.load_cert_chain(files["certificate"], files["key"])
        if server_side:
            context.num_tickets = 0
        raw.settimeout(10)
        self.socket = context.wrap_socket(raw, server_side=server_side)
        self.socket.setblocking(False)
        self.lock = threading.Lock()

    def _try(self, operation, wanted):
        while True:
            with self.lock:
                try:
                    return operation()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
                except ssl.SSLEOFError:
                    return b""
            try:
                select.select(*wanted, 0.2)
            except ValueError as error:  # closed meanwhile
                raise OSError from error

    def recv(self, size):
        return self._try(lambda: self.socket.recv(size), ([self.socket], [], []))

    def sendall(self, data):
        left = memoryview(data)
        while left:
            left = left[self._try(lambda: self.socket.send(left), ([], [self.socket], [])) or len(left):]

    def shutdown(self, how):
        with self.lock:
            self.socket.shutdown(how)

    def close(self):
        self.socket.close()


class Proxy:
    """Listens on `address` and passes connections on to `target`.

    When the message `kind` ("Preamble" or a name of KINDS) comes from the `side` ("source" or "destination"),
    `action` happens: a callable, or "drop" (both connections are closed), or "freeze" (nothing is passed on
    any more, in either direction, and nothing is closed, until close()), or "down" (as "drop", and connections
    are closed as they come until mend()). `after`: once it was passed on. A callable that returns one of these
    is followed by that. Only on the connection of that number: 0 is the move's first, the others are further
    streams of pages; "cut" closes just this one. With `tls`, files as of Authority.issue(), it is in the middle
    of TLS: one that both ends believe.
    """

    def __init__(self, target, side, kind, action, after=False, connection=0, host="127.0.0.1", tls=None):
        self.tls = tls
        self.target, self.side, self.kind, self.action, self.after = target, side, kind, action, after
        self.connection = connection
        self.listener = socket.create_server((host, 0))
        self.address = f"{host}:%d" % self.listener.getsockname()[1]
        self.seen = []  # (side, kind) in order, of that connection
        self.acted = threading.Event()
        self.frozen = threading.Event()
        self.down = threading.Event()
        self.ends = []  # of the first connection
        self.others = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        number = 0
        while True:
            try:
                source, _ = self.listener.accept()
            except OSError:
                return
            try:
                if self.down.is_set():
                    raise OSError
                host, port = self.target.rsplit(":", 1)
                destination = socket.create_connection((host, int(port)))
            except OSError:
                source.close()
                continue
            for end in (source, destination):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                try:
                    source, destination = Secure(source, self.tls, True), Secure(destination, self.tls, False)
                except OSError:
                    continue
            if number == 0:
                self.ends = [source, destination]
            else:
                self.others += [source, destination]
            for side, a, b in (("source", source, destination), ("destination", destination, source)):
                threading.Thread(target=self._pass_on, args=(side, a, b, number), daemon=True).start()
            number += 1

    def _pass_on(self, side, here, there, number):
        try:
            self._message(side, "Preamble", here, there, self._read(here, PREAMBLE.size), 0, number)
            while True:
                header = self._read(here, HEADER.size)
                magic, kind, _, _, length = HEADER.unpack(header)
                if magic != MAGIC:
                    raise AssertionError(f"the {side} broke the framing: {header.hex()}")
                self._message(side, NAMES.get(kind, str(kind)), here, there, header, length, number)
        except (OSError, Gone):
            if number > 0 or self.down.is_set():
                self._shut((here, there))
            elif not self.frozen.is_set():
                self.close()

    def _message(self, side, kind, here, there, header, length, number):
        if kind != "Ping" and number == self.connection:
            self.seen.append((side, kind))
        matches = (side, kind, number) == (self.side, self.kind, self.connection) and not self.acted.is_set()
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
        if action == "down":
            self.down.set()
            self._shut(self.ends + self.others)
        self.acted.set()
        if action == "drop":
            self.close()
        if action in ("drop", "freeze", "cut", "down"):
            raise Gone

    def mend(self):
        self.down.clear()

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

    def _shut(self, ends):
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def close(self):
        self._shut(self.ends + self.others)
        self.listener.close()
