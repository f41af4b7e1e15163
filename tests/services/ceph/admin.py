#!/usr/bin/env python3
"""What an administrator does in the cluster of ./serve.py: pools, users, quotas.

    target/services/ceph-16.2.15/bin/python tests/services/ceph/admin.py CONF COMMAND...

    boot UUID               makes the number of the object store daemon, and the pools
    wait PID                waits until that object store daemon is up, and every pool answers
    pool NAME               makes a pool for RBD images
    remove-pool NAME        removes one, with all that is in it
    quota NAME BYTES        lets a pool hold so much, less than it does, or any amount for 0;
                            ends when that shows, for which there must be a manager
    down                    has the cluster think that the object store daemon was gone
    full RATIO              takes the object store for full from that part of its disk on; 0.95
                            is usual
    user NAME MON OSD       makes a user with these capabilities, and prints the key
    write POOL IMAGE OFFSET FILE        writes a file into an image
    discard POOL IMAGE OFFSET LENGTH    makes a part of an image zero
    hold POOL IMAGE         has an image open for writing until standard input ends; says when

Every command ends, at the latest after a minute.
"""

import json
import sys
import time

import rados
import rbd

PATIENCE = 60


class Admin:
    """A connection as client.admin."""

    def __init__(self, conf):
        self.conf = conf
        self.cluster = self.connect(PATIENCE)

    def connect(self, patience):
        options = {'rados_mon_op_timeout': str(patience), 'rados_osd_op_timeout': str(patience)}
        cluster = rados.Rados(conffile=self.conf, name='client.admin', conf=options)
        cluster.connect(timeout=patience)
        return cluster

    def ask(self, **command):
        code, out, said = self.cluster.mon_command(json.dumps(command), b'')
        if code:
            sys.exit('%s: %s (%d)' % (command, said, code))
        return out

    def boot(self, uuid):
        self.ask(prefix='osd new', uuid=uuid)
        for name in ('volumes', 'backups'):
            self.make_pool(name)

    def make_pool(self, name):
        self.ask(prefix='osd pool create', pool=name, pg_num=8, pgp_num=8)
        self.ask(prefix='osd pool set', pool=name, var='size', val='1',
                 yes_i_really_mean_it=True)
        self.ask(prefix='osd pool application enable', pool=name, app='rbd')

    def answers(self, cluster, name):
        """Waits until the placement groups of a pool are there."""
        ioctx = cluster.open_ioctx(name)
        # Each name is in one group; so many are in all of the eight.
        for number in range(32):
            ioctx.write_full('check.%d' % number, b'x')
            ioctx.remove_object('check.%d' % number)
        ioctx.close()

    def pool(self, name):
        self.make_pool(name)
        self.answers(self.cluster, name)

    def remove_pool(self, name):
        self.ask(prefix='osd pool delete', pool=name, pool2=name,
                 yes_i_really_really_mean_it=True)

    def wait(self, pid):
        end = time.monotonic() + PATIENCE
        while True:
            osds = json.loads(self.ask(prefix='osd dump', format='json'))['osds']
            # Addresses end in the number of the process: an older one may count as up still.
            if any(osd['up'] and osd['in'] and osd['public_addr'].endswith('/' + pid)
                   for osd in osds):
                break
            if time.monotonic() > end:
                sys.exit('no object store daemon is up')
            time.sleep(0.02)
        while True:
            try:
                # An old connection may ask the daemon that is gone, and then waits for long.
                cluster = self.connect(1)
                for name in cluster.list_pools():
                    self.answers(cluster, name)
                return
            except rados.Error:
                if time.monotonic() > end:
                    raise

    def quota(self, name, most):
        self.ask(prefix='osd pool set-quota', pool=name, field='max_bytes', val=most)
        self.wait_for_pools(
            lambda pool: pool['pool_name'] != name
            or ('full_quota' in pool['flags_names']) == (most != '0'))

    def down(self):
        self.ask(prefix='osd down', ids=['0'])

    def full(self, ratio):
        names = ['nearfull', 'backfillfull', 'full']
        # Each must be at least as large as the one before, at any time.
        for name in names if float(ratio) < 0.5 else reversed(names):
            self.ask(prefix='osd set-%s-ratio' % name, ratio=float(ratio))
        is_full = float(ratio) < 0.5
        self.wait_for_pools(lambda pool: ('full' in pool['flags_names']) == is_full)

    def wait_for_pools(self, holds):
        """Waits until that holds for all of them."""
        end = time.monotonic() + PATIENCE
        while True:
            state = json.loads(self.ask(prefix='osd dump', format='json'))
            if all(holds(pool) for pool in state['pools']):
                return
            if time.monotonic() > end:
                sys.exit('nothing has become of that')
            time.sleep(0.05)

    def user(self, name, mon, osd):
        out = self.ask(prefix='auth get-or-create', entity='client.' + name,
                       caps=['mon', mon, 'osd', osd], format='json')
        print(json.loads(out)[0]['key'])


    def image(self, pool, image):
        return rbd.Image(self.cluster.open_ioctx(pool), image)

    def write(self, pool, image, offset, file):
        with self.image(pool, image) as opened, open(file, 'rb') as data:
            opened.write(data.read(), int(offset))

    def discard(self, pool, image, offset, length):
        with self.image(pool, image) as opened:
            opened.discard(int(offset), int(length))

    def hold(self, pool, image):
        with self.image(pool, image):
            print('open', flush=True)
            sys.stdin.read()


def main():
    _, conf, command, *arguments = sys.argv
    getattr(Admin(conf), command.replace('-', '_'))(*arguments)


if __name__ == '__main__':
    main()
