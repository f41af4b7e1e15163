"""What stands in for the services around cinder-backup.

Cinder's own rpcapi classes stay; only what they send through is replaced, so that a call
to cinder-backup runs in the real BackupManager at once, and calls to the volume service
and the scheduler, which are not here, run in the classes below. A volume is a plain file, or
an RBD image.
"""

from oslo_config import cfg

from cinder import objects
from cinder import rpc
from cinder.common import constants
from cinder.db import api as db
from cinder.volume import volume_utils
from os_brick import privileged


class Scheduler:
    """cinder-scheduler: there is one host for backups and one for volumes only."""

    def __init__(self, manager, volumes):
        self.manager = manager
        self.volumes = volumes

    def create_backup(self, ctxt, backup):
        backup.host = self.manager.host
        backup.save()
        self.manager.create_backup(ctxt, backup)

    def create_volume(self, ctxt, volume, **_):
        self.volumes.create(volume)

    def update_service_capabilities(self, ctxt, **_):
        pass

    def notify_service_capabilities(self, ctxt, **_):
        pass


class Volumes:
    """cinder-volume, and the connection to its volumes: a file for each id."""

    HOST = 'judge@files#files'

    def __init__(self, manager):
        self.manager = manager
        self.files = {}
        # The file for the next volume that the API makes by itself.
        self.next_file = None

    def put(self, ctxt, path, size, volume_id=None, name=None, description=None, metadata=None):
        """Makes a volume, or gives a known one another file and size (in GiB)."""
        values = {'size': size}
        if volume_id in self.files:
            db.volume_update(ctxt, volume_id, values)
        else:
            values.update(
                status='available', attach_status='detached', host=self.HOST,
                user_id=ctxt.user_id, project_id=ctxt.project_id,
                availability_zone='nova', bootable=False, display_name=name,
                display_description=description, metadata=metadata or {},
                volume_type_id=objects.VolumeType.get_by_name_or_id(ctxt, '__DEFAULT__').id)
            if volume_id:
                values['id'] = volume_id
            volume_id = db.volume_create(ctxt, values)['id']
        self.files[volume_id] = path
        return volume_id

    def snapshot(self, ctxt, volume_id):
        """Makes a snapshot of a volume: it has the data of the volume. Gives its id."""
        volume = objects.Volume.get_by_id(ctxt, volume_id)
        values = {
            'volume_id': volume_id, 'volume_size': volume.size, 'status': 'available',
            'user_id': ctxt.user_id, 'project_id': ctxt.project_id, 'progress': '100%',
            'display_name': None, 'volume_type_id': volume.volume_type_id}
        return db.snapshot_create(ctxt, values)['id']

    def create(self, volume):
        """Makes the volume that a restore has asked Cinder for: an empty file."""
        with open(self.next_file, 'xb'):
            pass
        self.files[volume.id] = self.next_file
        volume.host = self.HOST
        volume.status = 'available'
        volume.save()

    # What cinder-volume is asked for.

    def get_backup_device(self, ctxt, backup, **_):
        device = objects.BackupDeviceInfo(
            ctxt, volume=objects.Volume.get_by_id(ctxt, backup.volume_id), secure_enabled=True)
        self.manager.continue_backup(ctxt, backup, device)

    def secure_file_operations_enabled(self, ctxt, volume):
        return True

    def initialize_connection(self, ctxt, volume, connector):
        return {'driver_volume_type': 'file',
                'data': {'path': self.files[volume.id], 'name': volume.name}}

    def terminate_connection(self, ctxt, volume_id, connector, force):
        pass

    def remove_export(self, ctxt, volume_id):
        pass


class Connector:
    """os-brick's connector. It hands out an open file: opening by path, as Cinder does with
    block devices, would truncate a plain one."""

    def connect_volume(self, data):
        scheme, _, pool = data['path'].partition(':')
        if scheme == 'rbd':
            return {'path': image(pool, data['name'])}
        return {'path': open(data['path'], 'r+b')}

    def disconnect_volume(self, data, device, **_):
        device['path'].close()


def image(pool, name):
    """An RBD image as os-brick hands it out."""
    from os_brick.initiator import linuxrbd
    conf, user = cfg.CONF.backup_ceph_conf, cfg.CONF.backup_ceph_user
    client = linuxrbd.RBDClient(user, pool, conffile=conf)
    volume = linuxrbd.RBDVolume(client, name)
    return linuxrbd.RBDVolumeIOWrapper(linuxrbd.RBDImageMetadata(volume, pool, user, conf))


class Call:
    """A prepared RPC client context, answered in this process."""

    def __init__(self, service):
        self.service = service

    def cast(self, ctxt, method, **arguments):
        self.call(ctxt, method, **arguments)

    def call(self, ctxt, method, **arguments):
        return getattr(self.service, method)(ctxt, **arguments)

    def can_send_version(self, version):
        return True


def install(manager):
    """Puts the stand-ins into place. Gives that of the volumes."""
    # What os-brick does as root, as to mount a share, it does in this process, which is
    # root's then: there is no rootwrap to start another one.
    privileged.default.set_client_mode(False)
    volumes = Volumes(manager)
    services = {
        constants.BACKUP_TOPIC: manager,
        constants.SCHEDULER_TOPIC: Scheduler(manager, volumes),
        constants.VOLUME_TOPIC: volumes,
    }
    rpc.RPCAPI._get_cctxt = lambda api, version=None, **_: Call(services[api.TOPIC])
    volume_utils.brick_get_connector = lambda *_, **__: Connector()
    volume_utils.brick_get_connector_properties = lambda *_, **__: {'host': manager.host}
    return volumes
