#!/usr/bin/env python3
"""A real Swift with one copy of everything: a proxy server, an account, a container and an
object server, and memcached. ../service.py says how it begins and ends.

By hand:

    tests/services/swift/install
    tests/services/swift/start /tmp/swift
    curl -i -H 'X-Auth-User: test:tester' -H 'X-Auth-Key: testing' \\
        "$(jq -r .auth_url /tmp/swift/info.json)"
    tests/services/swift/stop /tmp/swift

Accounts of version 1 (tempauth): `test`, and `test1` to `test99` for tests that want one of
their own. Each has two users: `tester`, whose key is `testing`, may do all; `reader`, whose
key is `reading`, only what the access list of a container says (X-Container-Read:
test:reader, or .rlistings and the like). admin:admin, whose key is `admin`, may do all with
all accounts (quotas). With --keystone, a token of ../keystone does as well, and this Swift
is in its catalogue.

Storage policies: `gold`, which is the default, and `silver`. Quotas of containers and of
accounts are there when they are set (X-Container-Meta-Quota-Bytes,
X-Account-Meta-Quota-Bytes): 413.
"""

import json
import os
import shutil
import sys
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import service  # noqa: E402

SWIFT_CONF = """[swift-hash]
swift_hash_path_suffix = test
swift_hash_path_prefix = test

[storage-policy:0]
name = gold
default = yes

[storage-policy:1]
name = silver

[swift-constraints]
container_listing_limit = {listing_limit}
account_listing_limit = {listing_limit}
"""

DEFAULTS = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
workers = 0
log_level = WARNING
log_address = /nonexistent
disable_fallocate = true
fallocate_reserve = 0
"""

STORAGE_CONF = DEFAULTS + """
[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
recon_cache_path = {folder}/cache
"""

PROXY_CONF = DEFAULTS + """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk {keystone} tempauth \
container-quotas account-quotas slo dlo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:bulk]
use = egg:swift#bulk

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo

[filter:container-quotas]
use = egg:swift#container_quotas

[filter:account-quotas]
use = egg:swift#account_quotas

[filter:tempauth]
use = egg:swift#tempauth
reseller_prefix = AUTH
token_life = {token_life}
user_admin_admin = admin .admin .reseller_admin
{users}
"""

KEYSTONE_CONF = """
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = {keystone}
auth_url = {keystone}
auth_type = password
user_domain_id = default
project_domain_id = default
username = swift
password = swiftpass
project_name = service
delay_auth_decision = true
cache = swift.cache
include_service_catalog = false

[filter:keystoneauth]
use = egg:swift#keystoneauth
reseller_prefix = KS
operator_roles = admin, member
project_reader_roles = reader
"""

SERVERS = ('proxy', 'account', 'container', 'object')
ACCOUNTS = ['test'] + ['test%d' % number for number in range(1, 100)]


def configure(swift, ports, options, memcached):
    """Writes Swift's own files."""
    os.makedirs(swift.path('devices', 'd1'), exist_ok=True)
    os.makedirs(swift.path('cache'), exist_ok=True)
    swift.write('swift.conf', SWIFT_CONF.format(listing_limit=options.listing_limit))
    for kind in SERVERS[1:]:
        swift.write(kind + '.conf', STORAGE_CONF.format(
            folder=swift.folder, kind=kind, port=ports[kind]))
    users = ''.join('user_%s_tester = testing .admin\nuser_%s_reader = reading\n'
                    % (account, account) for account in ACCOUNTS)
    proxy = PROXY_CONF.format(
        folder=swift.folder, port=ports['proxy'], memcached=memcached, users=users,
        token_life=options.token_life,
        keystone='authtoken keystoneauth' if options.keystone else '')
    if options.keystone:
        proxy += KEYSTONE_CONF.format(keystone=options.keystone)
    swift.write('proxy.conf', proxy)


def check_attributes(swift):
    """Swift keeps what it knows of an object in extended attributes."""
    try:
        os.setxattr(swift.path('devices'), 'user.cinderfs', b'1')
    except OSError as error:
        sys.exit('%s: Swift needs a file system with extended attributes of users: %s'
                 % (swift.folder, error))


def make_rings(swift, ports):
    """Tells each server where the others are."""
    # Modules read policies and limits when they are imported, from there.
    from swift.common import utils
    utils.set_swift_dir(swift.folder)
    from swift.common.ring import RingBuilder
    kinds = {'account': 'account', 'container': 'container', 'object': 'object',
             'object-1': 'object'}
    for ring, kind in kinds.items():
        builder = RingBuilder(2, 1, 1)
        builder.add_dev({'id': 0, 'region': 1, 'zone': 1, 'weight': 1.0, 'ip': '127.0.0.1',
                         'port': ports[kind], 'device': 'd1'})
        builder.rebalance()
        builder.get_ring().save(swift.path(ring + '.ring.gz'))


def start_memcached(swift):
    """Starts memcached, which keeps the tokens. Gives the port that it has chosen."""
    said = swift.path('memcached.port')
    if os.path.exists(said):
        os.unlink(said)

    def run():
        environment = dict(os.environ, MEMCACHED_PORT_FILENAME=said)
        command = ['memcached', '-l', '127.0.0.1', '-p', '-1', '-U', '0', '-m', '32']
        if os.geteuid() == 0:
            command += ['-u', 'root']
        os.execvpe(command[0], command, environment)

    swift.fork('memcached', run)

    def port():
        if not os.path.exists(said):
            return None
        with open(said, encoding='ascii') as file:
            # TCP INET: 12345
            return int(file.read().split()[-1])

    return service.wait_until(swift, port)


def start_servers(swift, sockets):
    """Starts Swift's own programs, each in a process, on the sockets that are there."""
    from swift.common import wsgi
    from eventlet.green import socket as green

    def run(kind):
        def inherited(_):
            return green.socket(fileno=sockets[kind].detach())

        for other in SERVERS:
            if other != kind:
                sockets[other].close()
        wsgi.get_socket = inherited
        os.chdir(swift.folder)
        wsgi.run_wsgi(swift.path(kind + '.conf'), kind + '-server', verbose=True)

    # Those behind the proxy first, for it asks them.
    for kind in reversed(SERVERS):
        swift.fork(kind, lambda kind=kind: run(kind))
    for sock in sockets.values():
        sock.close()


def register(keystone, region, url):
    """Puts this Swift into the catalogue of a Keystone."""
    def ask(method, path, body=None, token=None):
        headers = {'Content-Type': 'application/json'}
        if token:
            headers['X-Auth-Token'] = token
        request = urllib.request.Request(
            keystone + path, method=method, headers=headers,
            data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return answer.headers, json.loads(text) if text else None

    headers, _ = ask('POST', '/auth/tokens', {'auth': {
        'identity': {'methods': ['password'], 'password': {'user': {
            'name': 'admin', 'password': 'adminpass', 'domain': {'id': 'default'}}}},
        'scope': {'project': {'name': 'admin', 'domain': {'id': 'default'}}}}})
    token = headers['X-Subject-Token']
    _, found = ask('GET', '/services?type=object-store', token=token)
    swift_id = found['services'][0]['id']
    try:
        ask('PUT', '/regions/' + region, {'region': {}}, token)
    except urllib.error.HTTPError as error:
        # It is there.
        if error.code != 409:
            raise
    _, found = ask('GET', '/endpoints?service_id=%s&region_id=%s' % (swift_id, region),
                   token=token)
    for endpoint in found['endpoints']:
        ask('DELETE', '/endpoints/' + endpoint['id'], token=token)
    for interface in ('public', 'internal', 'admin'):
        ask('POST', '/endpoints', {'endpoint': {
            'interface': interface, 'region_id': region, 'service_id': swift_id,
            'url': url + '/v1/KS_%(project_id)s'}}, token)


def main():
    parser = service.arguments('Serves a Swift until it is ended.')
    parser.add_argument('--listing-limit', type=int, metavar='N', default=10000,
                        help='the most lines of one page of a listing')
    parser.add_argument('--keystone', metavar='URL', help='the address of ../keystone')
    parser.add_argument('--region', metavar='NAME', default='RegionOne',
                        help='the region in the catalogue')
    options = parser.parse_args()
    if not shutil.which('memcached'):
        sys.exit('memcached is missing: install the package of that name')
    swift = service.Service(options)
    try:
        sockets = swift.listen(SERVERS)
        ports = {kind: sock.getsockname()[1] for kind, sock in sockets.items()}
        configure(swift, ports, options, start_memcached(swift))
        check_attributes(swift)
        make_rings(swift, ports)
        start_servers(swift, sockets)
        url = 'http://127.0.0.1:%d' % ports['proxy']
        if options.keystone:
            register(options.keystone, options.region, url)
        for kind in SERVERS:
            service.wait_until(swift, lambda: service.answers('http://127.0.0.1:%d/healthcheck' % ports[kind]))
        swift.announce({'url': url, 'port': ports['proxy'], 'auth_url': url + '/auth/v1.0'})
        swift.wait()
    finally:
        swift.end()


if __name__ == '__main__':
    main()
