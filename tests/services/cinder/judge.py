#!/usr/bin/env python3
"""A real Cinder as the judge of backups: its API, its BackupManager and its drivers, in one
process with a database of its own.

It reads one request per line from standard input and writes one answer per line to
standard output, both JSON; what Cinder logs goes to STATE/cinder.log, and other output to
standard error. An answer is {"result": ...} or {"error": the exception's class,
"message": its text}. It ends with its input.

By hand:

    tests/services/cinder/install 29.0.0
    mkdir /tmp/judge /tmp/store
    cat > /tmp/judge.conf <<.
    [DEFAULT]
    backup_driver = cinder.backup.drivers.posix.PosixBackupDriver
    backup_posix_path = /tmp/store
    .
    target/services/cinder-29.0.0/bin/python tests/services/cinder/judge.py \\
        --config /tmp/judge.conf --state /tmp/judge
    {"op": "volume", "path": "/tmp/disk.img", "size": 1}
    {"op": "backup", "volume": "<the id>", "name": "monday"}
    {"op": "restore", "backup": "<the id>", "path": "/tmp/restored.img"}

The requests are the methods of Judge whose names begin with `do_`. CONFIG is Cinder's own
file, so another driver needs another file only; what it needs beside (a mount, a server)
is the caller's to provide.
"""

import argparse
import json
import os
import sys
import warnings


def take_stdout():
    """Gives the standard output, and leaves standard error in its place: libraries print."""
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    return answers


ANSWERS = take_stdout()
# Nothing is written beside this file.
sys.dont_write_bytecode = True
warnings.simplefilter('ignore')

# As cinder-backup starts, in that order.
import eventlet  # noqa: E402

try:
    from cinder import monkey_patch
    monkey_patch.patch()
except ImportError:  # Cinder before 29.0.0
    eventlet.monkey_patch()

from oslo_config import cfg  # noqa: E402
from oslo_log import log as logging  # noqa: E402
from oslo_utils import importutils  # noqa: E402

from cinder.common import config  # noqa: E402,F401
from cinder import context  # noqa: E402
from cinder import coordination  # noqa: E402
from cinder import objects  # noqa: E402
from cinder import rpc  # noqa: E402
from cinder import version  # noqa: E402
from cinder.common import constants  # noqa: E402
from cinder.db import migration  # noqa: E402

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

# The part of the configuration that no test chooses.
OWN_CONFIG = """[DEFAULT]
state_path = {state}
log_dir = {state}
log_file = cinder.log
transport_url = fake:/
host = judge
storage_availability_zone = nova
service_down_time = 1000000
default_volume_type = __DEFAULT__
quota_backups = -1
quota_backup_gigabytes = -1
quota_volumes = -1
quota_gigabytes = -1

[database]
connection = sqlite:///{state}/cinder.sqlite
sqlite_synchronous = false

[oslo_concurrency]
lock_path = {state}/locks

[coordination]
backend_url = file://{state}
"""


class Judge:
    """One Cinder with one backup host."""

    def __init__(self, config_file, state):
        own = os.path.join(state, 'judge.conf')
        with open(own, 'w', encoding='utf-8') as file:
            file.write(OWN_CONFIG.format(state=state))
        objects.register_all()
        # Options of another file win over those of an earlier one.
        files = ['--config-file', config_file, '--config-file', own]
        CONF(files, project='cinder', version=version.version_string())
        logging.setup(CONF, 'cinder')
        migration.db_sync()
        rpc.init(CONF)

        # Imported here, since they look at the configuration.
        from cinder.backup import api
        from cinder.backup import manager
        import standins

        self.context = context.RequestContext(
            user_id='judge', project_id='judge', is_admin=True, overwrite=False)
        importutils.import_class(CONF.backup_driver)
        self.manager = manager.BackupManager(host=CONF.host)
        self.volumes = standins.install(self.manager)
        self.register()
        # As the service does that cinder-backup runs in: the NFS driver mounts under a lock.
        coordination.COORDINATOR.start()
        self.manager.init_host()
        with eventlet.Timeout(30):
            while not self.manager.is_working():
                eventlet.sleep(0.01)
        self.api = api.API()

    def register(self):
        """The row of the service, which the API looks for."""
        service = objects.Service(
            context=self.context.elevated(), host=CONF.host, binary=constants.BACKUP_BINARY,
            topic=constants.BACKUP_TOPIC, report_count=1, disabled=False,
            availability_zone=CONF.storage_availability_zone)
        service.create()

    def describe(self, backup_id):
        """All of the row of a backup."""
        backup = objects.Backup.get_by_id(self.context, backup_id)
        names = (name for name in backup.fields if name != 'parent')
        return {name: backup.fields[name].to_primitive(backup, name, getattr(backup, name))
                for name in names}

    def do_version(self):
        """The version of Cinder."""
        return version.version_string()

    def do_reload(self):
        """Reads the configuration file again; drivers are made anew for each request."""
        CONF.reload_config_files()

    def do_volume(self, path, size, id=None, name=None, description=None, metadata=None):
        """Makes the volume of that id (or a new one), or changes its file and its size in
        GiB. Gives its id. `rbd:POOL` in place of a path is the image `volume-ID` there, in
        the cluster of backup_ceph_conf."""
        return self.volumes.put(self.context, path, size, id, name, description, metadata)

    def do_backup(self, volume, name=None, description=None, incremental=False, container=None,
                  snapshot=False):
        """Backs a volume up, or a snapshot that it is given before. Gives the backup's
        row."""
        snapshot_id = self.volumes.snapshot(self.context, volume) if snapshot else None
        backup = self.api.create(
            self.context, name, description, volume, container, incremental=incremental,
            snapshot_id=snapshot_id)
        return self.finished(backup.id)

    def do_import(self, record):
        """Imports a record, as `openstack volume backup record import` does."""
        backup = self.api.import_record(
            self.context, record['backup_service'], record['backup_url'])
        return self.finished(backup.id)

    def do_export(self, backup):
        """Gives the record of a backup."""
        return self.api.export_record(self.context, backup)

    def do_restore(self, backup, path=None, volume=None):
        """Restores into a new file (a volume that Cinder makes for it), or over a volume.
        Gives the volume's id."""
        if volume is None:
            self.volumes.next_file = path
        done = self.api.restore(self.context, backup, volume_id=volume)
        restored = objects.Volume.get_by_id(self.context, done['volume_id'])
        self.finished(backup)
        if restored.status != 'available':
            raise RuntimeError('the volume is %s' % restored.status)
        return restored.id

    def do_delete(self, backup):
        """Deletes a backup."""
        self.api.delete(self.context, objects.Backup.get_by_id(self.context, backup))

    def do_list(self):
        """Gives the rows of all backups, the oldest first."""
        backups = self.api.get_all(
            self.context, sort_keys=['created_at', 'id'], sort_dirs=['asc', 'asc'])
        return [self.describe(backup.id) for backup in backups]

    def finished(self, backup_id):
        """The row of a backup that must be available by now."""
        backup = self.describe(backup_id)
        if backup['status'] != 'available':
            raise RuntimeError(
                'backup %s is %s: %s' % (backup_id, backup['status'], backup['fail_reason']))
        return backup

    def answer(self, line):
        try:
            request = json.loads(line)
            operation = getattr(self, 'do_' + request.pop('op'))
            return {'result': operation(**request)}
        except Exception as error:
            LOG.exception('%s', line.strip())
            return {'error': type(error).__name__, 'message': str(error)}


def main():
    parser = argparse.ArgumentParser(description='A Cinder that answers on standard input.')
    parser.add_argument('--config', required=True, help="Cinder's configuration file")
    parser.add_argument('--state', required=True, help='an empty folder for all that it keeps')
    arguments = parser.parse_args()
    judge = Judge(arguments.config, os.path.abspath(arguments.state))
    for line in sys.stdin:
        print(json.dumps(judge.answer(line)), file=ANSWERS, flush=True)


if __name__ == '__main__':
    main()
