#!/usr/bin/env python3
"""A real GlusterFS with one volume, `vol`, of one brick. ../service.py says how it begins
and ends; it needs root, and the packages glusterfs-server and glusterfs-client.

By hand:

    tests/services/glusterfs/start /tmp/gluster
    mount -t glusterfs "$(jq -r .share /tmp/gluster/info.json)" /mnt
    umount /mnt
    tests/services/glusterfs/stop /tmp/gluster

The port of glusterd is the same everywhere, so each of these servers has an address of its
own (127.0.0.2 and so on). The process that serves the data, the brick, is named by the file
that `brick_pidfile` names, for it becomes another one whenever it is started; `cli` is the
command line of the administrator:

    kill -9 "$(cat "$(jq -r .brick_pidfile /tmp/gluster/info.json)")"
    $(jq -r '.cli | join(" ")' /tmp/gluster/info.json) volume start vol force
"""

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import service  # noqa: E402

GLUSTERD_CONF = """volume management
    type mgmt/glusterd
    option working-directory {folder}/lib
    option run-directory {folder}/run
    option glusterd-sockfile {folder}/run/glusterd.sock
    option log-directory {folder}/logs
    option transport-type socket
    option transport.address-family inet
    option transport.socket.bind-address {address}
    option transport.socket.listen-port {port}
    option transport.socket.read-fail-log off
    option ping-timeout 0
    option event-threads 1
    option base-port {first}
    option max-port {last}
end-volume
"""

VOLUME = 'vol'
# Where everybody looks for a glusterd.
PORT = 24007
# Where nobody looks: who listens there has the address.
RESERVED = 24006


def take_address(gluster):
    """An address that no other of these servers has: that of last time if there was one.
    Gives a socket as well, for it is ours as long as that is open."""
    known = None
    if os.path.exists(gluster.path('address')):
        with open(gluster.path('address'), encoding='ascii') as file:
            known = file.read()
    numbers = random.sample(range(2, 255), 253)
    for address in [known] if known else ['127.0.0.%d' % number for number in numbers]:
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind((address, RESERVED))
            reserved.listen(1)
            # A glusterd that is none of ours is seen as well, on all addresses.
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, PORT))
            gluster.write('address', address)
            return address, reserved
        except OSError as error:
            reserved.close()
            refused = error
    sys.exit('no address for a glusterd, whose port is %d: %s' % (PORT, refused))


def configure(gluster, address):
    for name in ('lib', 'run', 'logs', 'brick/data'):
        os.makedirs(gluster.path(name), exist_ok=True)
    gluster.write('glusterd.vol', GLUSTERD_CONF.format(
        folder=gluster.folder, address=address, port=PORT,
        first=service.PORTS.start, last=service.PORTS.stop - 1))
    try:
        os.setxattr(gluster.path('brick', 'data'), 'trusted.cinderfs', b'1')
        os.removexattr(gluster.path('brick', 'data'), 'trusted.cinderfs')
    except OSError as error:
        sys.exit('%s: GlusterFS needs root, and a file system with trusted extended attributes: %s'
                 % (gluster.folder, error))


def adopt_orphans():
    """Makes the processes that are left behind by children, as bricks are, ours."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)


def children_of(pid):
    with open('/proc/%d/task/%d/children' % (pid, pid), encoding='ascii') as file:
        return [int(child) for child in file.read().split()]


def end_children():
    """Ends all of ours, and those that become ours by that."""
    while children := children_of(os.getpid()):
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def supervise(gluster, reserved):
    """Runs glusterd. A process of its own does, for bricks leave their parents: whoever
    ends it, or is its parent and ends, ends them all."""
    def end(*_):
        end_children()
        os._exit(0)

    reserved.close()
    signal.signal(signal.SIGTERM, end)
    adopt_orphans()
    service.die_with_parent(signal.SIGTERM)
    command = ['glusterd', '--no-daemon', '--volfile', gluster.path('glusterd.vol'),
               '--pid-file', gluster.path('run', 'glusterd.pid'),
               '--log-file', gluster.path('logs', 'glusterd.log'),
               '--socket-file', gluster.path('run', 'glusterd-mgmt.sock')]
    glusterd = os.posix_spawnp(command[0], command, os.environ)
    while os.wait()[0] != glusterd:
        # A brick, or what started it.
        pass
    end_children()


class Cli:
    """The command line of the administrator."""

    def __init__(self, gluster):
        self.command = ['gluster', '--mode=script',
                        '--glusterd-sock=' + gluster.path('run', 'glusterd.sock'),
                        '--log-file=' + gluster.path('logs', 'cli.log')]

    def does(self, *words):
        asked = subprocess.run([*self.command, *words], stdin=subprocess.DEVNULL,
                               capture_output=True, timeout=60, check=False)
        self.said = (asked.stdout + asked.stderr).decode()
        return asked.returncode == 0

    def must(self, *words):
        if not self.does(*words):
            sys.exit('gluster %s: %s' % (' '.join(words), self.said))


def read_pid(path):
    """The process of a pid file, if it is there and runs."""
    try:
        with open(path, encoding='ascii') as file:
            pid = int(file.read())
        os.kill(pid, 0)
        return pid
    except (OSError, ValueError):
        return None


def brick_pidfile(gluster):
    folder = gluster.path('run', 'vols', VOLUME)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return next((os.path.join(folder, name) for name in names if name.endswith('.pid')), None)


def brick_port(cli):
    """The port of the brick, as glusterd tells it to clients."""
    cli.must('volume', 'status', VOLUME, '--xml')
    for part in cli.said.split('<port>')[1:]:
        port = part.split('<')[0]
        if port.isdigit():
            return int(port)
    return None


def traces(gluster):
    """What the brick writes outside of the folder, wherever that is: a socket and a log."""
    with open('/proc/%d/cmdline' % read_pid(brick_pidfile(gluster)), encoding='utf-8') as file:
        words = file.read().split('\0')
    return [value for option, value in zip(words, words[1:]) if option in ('-S', '-l')]


def main():
    options = service.arguments('Serves a GlusterFS until it is ended.').parse_args()
    for program, package in (('glusterd', 'server'), ('mount.glusterfs', 'client')):
        if not shutil.which(program):
            sys.exit('%s is missing: install the package glusterfs-%s' % (program, package))
    gluster = service.Service(options)
    elsewhere = []
    try:
        address, reserved = take_address(gluster)
        configure(gluster, address)
        gluster.fork('glusterd', lambda: supervise(gluster, reserved))
        cli = Cli(gluster)
        service.wait_until(gluster, lambda: cli.does('pool', 'list'))
        if not cli.does('volume', 'info', VOLUME):
            cli.must('volume', 'create', VOLUME, 'transport', 'tcp',
                     '%s:%s' % (address, gluster.path('brick', 'data')), 'force')
            cli.must('volume', 'start', VOLUME)
        service.wait_until(gluster, lambda: read_pid(brick_pidfile(gluster) or ''))
        port = service.wait_until(gluster, lambda: brick_port(cli))
        elsewhere = traces(gluster)
        gluster.announce({
            'share': '%s:/%s' % (address, VOLUME), 'address': address, 'volume': VOLUME,
            'port': PORT, 'brick_port': port, 'brick': gluster.path('brick', 'data'),
            'glusterd_pid': read_pid(gluster.path('run', 'glusterd.pid')),
            'brick_pidfile': brick_pidfile(gluster), 'cli': cli.command})
        gluster.wait()
    finally:
        for _, pid in gluster.children:
            os.kill(pid, signal.SIGTERM)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        gluster.end()
        if not os.path.exists(gluster.folder):
            for path in elsewhere:
                if os.path.exists(path):
                    os.unlink(path)


if __name__ == '__main__':
    main()
