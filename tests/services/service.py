"""What the servers of the tests have in common: sockets, processes, beginning and end.

A server is a program `serve.py FOLDER` that keeps all it has in FOLDER, listens on loopback
only, on ports that are free, writes one line of JSON to its standard output and to
FOLDER/info.json when it answers, and ends, with all its processes, by SIGTERM. Started again
in the same FOLDER, it has the same ports and the same data. Told `--until-eof`, it also ends
with its input, and then removes FOLDER: nothing is left however its user has ended.
"""

import argparse
import ctypes
import fcntl
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request

# Below those that the kernel hands out to clients.
PORTS = range(10000, 30000)


def arguments(description):
    """The parser of a serve.py, with what they all take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('folder', type=os.path.abspath, help='where all is kept that it has')
    parser.add_argument('--until-eof', action='store_true',
                        help='end when standard input does, and remove the folder')
    parser.add_argument('--token-life', type=int, metavar='SECONDS', default=86400)
    return parser


class Service:
    """The folder of a server, while the server runs."""

    def __init__(self, options):
        self.folder = options.folder
        self.until_eof = options.until_eof
        self.children = []
        # Whatever leads into the world does not lead here.
        os.environ['no_proxy'] = '127.0.0.1'
        os.makedirs(self.folder, exist_ok=True)
        self.lock = open(self.path('lock'), 'w', encoding='utf-8')
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit('%s: a server runs there already' % self.folder)
        # What was said by another one, which has ended.
        if os.path.exists(self.path('info.json')):
            os.unlink(self.path('info.json'))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, text):
        with open(self.path(name), 'w', encoding='utf-8') as file:
            file.write(text)

    def listen(self, names):
        """A listening socket for each name, on the ports of last time if there was one."""
        known = {}
        if os.path.exists(self.path('ports.json')):
            with open(self.path('ports.json'), encoding='utf-8') as file:
                known = json.load(file)
        sockets = {name: listening(known.get(name)) for name in names}
        ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
        self.write('ports.json', json.dumps(ports))
        return sockets

    def fork(self, name, run):
        """Runs a function in a process of its own, which ends with this one."""
        pid = os.fork()
        if pid:
            self.children.append((name, pid))
            return
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            die_with_parent()
            self.lock.close()
            log = os.open(self.path(name + '.log'),
                          os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for old, new in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(old, new)
            run()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(code)

    def announce(self, info):
        """Says that it answers, and how it is reached."""
        text = json.dumps(dict(info, pid=os.getpid()))
        # Complete from the moment that it is there.
        self.write('info.json.new', text)
        os.rename(self.path('info.json.new'), self.path('info.json'))
        print(text, flush=True)

    def check_children(self):
        for name, pid in self.children:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                self.children.remove((name, pid))
                sys.exit('%s has ended; its log is %s' % (name, self.path(name + '.log')))

    def is_abandoned(self, patience=0):
        """Whether who started it, and wanted it for so long, is gone."""
        if not self.until_eof:
            time.sleep(patience)
            return False
        readable, _, _ = select.select([0], [], [], patience)
        return bool(readable) and not os.read(0, 4096)

    def wait(self):
        """Returns when it is time to end."""
        while not self.is_abandoned(patience=0.5):
            self.check_children()

    def end(self):
        """Ends all processes. They have no chance to refuse: nothing of theirs is of use."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _, pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for _, pid in self.children:
            os.waitpid(pid, 0)
        if self.is_abandoned():
            shutil.rmtree(self.folder)
        elif os.path.exists(self.path('info.json')):
            os.unlink(self.path('info.json'))


def listening(port):
    """A socket that listens on that port, or on one that nobody uses."""
    for candidate in [port] if port else random.sample(PORTS, 1000):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.bind(('127.0.0.1', candidate))
            # Only who listens has the port for itself.
            sock.listen(4096)
            return sock
        except OSError as error:
            sock.close()
            refused = error
    raise SystemExit('cannot listen on port %s: %s' % (port, refused))


def die_with_parent(by=signal.SIGKILL):
    """Asks the kernel for that signal when the parent is gone."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, by)


def answers(url):
    """Whether a server answers, whatever it says."""
    try:
        with urllib.request.urlopen(url, timeout=60):
            return True
    except urllib.error.HTTPError:
        # Not all have what we asked for.
        return True
    except OSError:
        return False


def wait_until(server, done):
    """Waits for a true value, and gives it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        value = done()
        if value:
            return value
        server.check_children()
        if server.is_abandoned(patience=0.01):
            break
    sys.exit('%s: what is there does not answer; its logs are there' % server.folder)
