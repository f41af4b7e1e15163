#!/usr/bin/env python3
"""A real Ceph cluster: one monitor, and one object store daemon that keeps all in a sparse
file; a manager, without which nobody counts what pools hold, when that is asked for.
../service.py says how it begins and ends.

By hand:

    tests/services/ceph/install
    tests/services/ceph/start /tmp/ceph
    rbd --conf /tmp/ceph/ceph.conf --id cinder create backups/image --size 1G
    tests/services/ceph/stop /tmp/ceph

Pools: `volumes` and `backups`, with one copy of everything; ./admin.py makes more. Users,
whose keyrings the configuration finds: `admin`; `cinder`, with the capabilities that Cinder's
documentation gives it, in all pools.

Its processes can be ended and started, with their data kept, one at a time: it listens at
FOLDER/control for lines `stop osd`, `start osd`, `stop mon`, `start mon`, `start mgr`, each of
which it answers with a line when that is done.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import service  # noqa: E402

CONF = """[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{port}]
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
ms_bind_msgr1 = false
ms_bind_msgr2 = true
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = {folder}/run
log_file = {folder}/$name.messages
admin_socket =
keyring = {folder}/$name.keyring
crash_dir = {folder}/crash
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
osd_pool_default_read_lease_ratio = 0.25
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_max_pg_per_osd = 10000
mon_data_avail_crit = 1
mon_data_avail_warn = 2
auth_allow_insecure_global_id_reclaim = false
rbd_default_features = 61
[client]
log_file =
[mon]
mon_data = {folder}/mon
keyring = {folder}/mon.keyring
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
mon_osd_min_up_ratio = 0
mon_initial_members = a
mon_cluster_log_file = {folder}/cluster.messages
[osd]
osd_data = {folder}/osd
keyring = {folder}/osd/keyring
osd_objectstore = bluestore
osd_memory_target = 939524096
osd_class_load_list = *
osd_class_default_list = *
bluestore_block_size = {bytes}
bluestore_block_path =
bluestore_block_create = true
bluestore_fsck_on_mkfs = false
bluestore_cache_autotune = false
[mgr]
mgr_data = {folder}/mgr
keyring = {folder}/mgr/keyring
mgr_stats_period = 1
mgr_initial_modules =
"""

# What the sparse file may grow to.
BYTES = 40 << 30

# As in Cinder's documentation.
CINDER = ('--cap', 'mon', 'profile rbd', '--cap', 'osd', 'profile rbd')
ALL = ('--cap', 'mon', 'allow *', '--cap', 'osd', 'allow *')

# What has a folder of its own has its key there.
FOLDERS = {'osd.0': 'osd/', 'mgr.x': 'mgr/'}
COMMANDS = {
    'mon': ['ceph-mon', '-i', 'a'],
    'osd': ['ceph-osd', '-i', '0'],
    'mgr': ['ceph-mgr', '-i', 'x'],
}


class Cluster(service.Service):
    """The folder of a cluster, and its processes."""

    def run(self, *command):
        """Runs a program to its end."""
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120, check=False)
        if done.returncode:
            sys.exit('%s: %s' % (' '.join(command), done.stdout.decode(errors='replace')))
        return done.stdout.decode()

    def admin(self, *command):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'admin.py')
        self.run(sys.executable, program, self.path('ceph.conf'), *command)

    def make(self, port):
        """Writes all that a new cluster begins with. Gives the id of the object store."""
        fsid = str(uuid.uuid4())
        for folder in ('run', 'crash', 'mon', 'osd', 'mgr'):
            os.makedirs(self.path(folder))
        self.write('ceph.conf', CONF.format(
            folder=self.folder, fsid=fsid, port=port, bytes=BYTES))
        all_keys = self.path('mon.keyring')
        self.run('ceph-authtool', '-C', all_keys, '--gen-key', '-n', 'mon.',
                 '--cap', 'mon', 'allow *')
        for name, capabilities in (
                ('client.admin', ALL), ('client.cinder', CINDER),
                ('osd.0', ('--cap', 'mon', 'allow profile osd', '--cap', 'osd', 'allow *')),
                ('mgr.x', ('--cap', 'mon', 'allow profile mgr', '--cap', 'osd', 'allow *'))):
            self.run('ceph-authtool', all_keys, '--gen-key', '-n', name, *capabilities)
            key = self.run('ceph-authtool', all_keys, '-n', name, '-p').strip()
            keyring = FOLDERS.get(name, name + '.') + 'keyring'
            self.write(keyring, '[%s]\n\tkey = %s\n' % (name, key))
            os.chmod(self.path(keyring), 0o600)
        monmap = self.path('monmap')
        self.run('monmaptool', '--create', '--clobber', '--fsid', fsid, '--addv', 'a',
                 '[v2:127.0.0.1:%d]' % port, '--enable-all-features',
                 '--set-min-mon-release', '16', monmap)
        # It does nothing, and says so to nobody, in a folder that is not empty.
        self.run('ceph-mon', '--conf', self.path('ceph.conf'), '--mkfs', '-i', 'a',
                 '--monmap', monmap, '--keyring', all_keys)
        return str(uuid.uuid4())

    def start(self, kind):
        """Starts a daemon, in the foreground of a process of its own."""
        if any(name == kind for name, _ in self.children):
            return
        command = COMMANDS[kind] + ['--conf', self.path('ceph.conf'), '-f']
        self.fork(kind, lambda: os.execvp(command[0], command))

    def stop(self, kind):
        """Ends a daemon at once, as a crash does."""
        for name, pid in list(self.children):
            if name == kind:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                self.children.remove((name, pid))

    def wait_for_pools(self):
        self.admin('wait', str(self.pids()['osd']))

    def pids(self):
        return dict(self.children)

    def listen_for_control(self):
        path = self.path('control')
        if os.path.exists(path):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX)
        # The path may be longer than an address can be.
        os.chdir(self.folder)
        sock.bind('control')
        sock.listen(16)
        return sock

    def obey(self, sock):
        """One line of one connection."""
        connection, _ = sock.accept()
        with connection, connection.makefile('rw', encoding='ascii') as lines:
            verb, kind = lines.readline().split()
            {'start': self.start, 'stop': self.stop}[verb](kind)
            if verb == 'start' and kind != 'mgr' and {'mon', 'osd'} <= set(self.pids()):
                self.wait_for_pools()
            lines.write(json.dumps(self.pids()) + '\n')

    def serve(self, sock):
        """Returns when it is time to end."""
        while True:
            watched = [sock, 0] if self.until_eof else [sock]
            readable, _, _ = select.select(watched, [], [], 0.5)
            if sock in readable:
                self.obey(sock)
            if 0 in readable and self.is_abandoned():
                return
            self.check_children()


def main():
    parser = service.arguments('Serves a Ceph cluster until it is ended.')
    options = parser.parse_args()
    for program in ('ceph-mon', 'ceph-osd', 'ceph-mgr', 'ceph-authtool', 'monmaptool'):
        if not shutil.which(program):
            sys.exit('%s is missing: run tests/services/ceph/install' % program)
    cluster = Cluster(options)
    try:
        with cluster.listen(['mon'])['mon'] as sock:
            port = sock.getsockname()[1]
        new = None
        if not os.path.exists(cluster.path('complete')):
            new = cluster.make(port)
        cluster.start('mon')
        if new:
            # Neither waits for the other.
            store = subprocess.Popen(
                ['ceph-osd', '--conf', cluster.path('ceph.conf'), '-i', '0', '--mkfs',
                 '--osd-uuid', new], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL)
            cluster.admin('boot', new)
            if store.wait(timeout=120):
                sys.exit('the object store cannot be made: see %s' % cluster.folder)
            cluster.write('complete', '')
        cluster.start('osd')
        cluster.wait_for_pools()
        control = cluster.listen_for_control()
        with open(cluster.path('ceph.conf'), encoding='utf-8') as conf:
            fsid = next(line.split()[-1] for line in conf if line.startswith('fsid'))
        cluster.announce({
            'conf': cluster.path('ceph.conf'), 'fsid': fsid, 'port': port,
            'pool': 'backups', 'volumes': 'volumes', 'user': 'cinder',
            'keyring': cluster.path('client.cinder.keyring'),
            'admin_keyring': cluster.path('client.admin.keyring'),
            'control': cluster.path('control'), 'pids': cluster.pids(),
        })
        cluster.serve(control)
    finally:
        cluster.end()


if __name__ == '__main__':
    main()
