#!/usr/bin/env python3
"""A real Keystone, version 3 of its interface, on what ./template.py has made. ../service.py
says how it begins and ends, ./template.py which users it has.

By hand:

    tests/services/keystone/install
    tests/services/swift/install
    tests/services/keystone/start /tmp/keystone
    tests/services/swift/start /tmp/swift --keystone "$(jq -r .url /tmp/keystone/info.json)"
    tests/services/swift/stop /tmp/swift
    tests/services/keystone/stop /tmp/keystone

Swift puts itself into the catalogue, in the region RegionOne. A second Swift, or one behind
something else, takes another region: `--region NAME`.
"""

import json
import os
import shutil
import socketserver
import sqlite3
import sys
from wsgiref import simple_server

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import service  # noqa: E402
import template  # noqa: E402

TEMPLATE = os.path.join(sys.prefix, 'template')


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class Handler(simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def furnish(keystone, url):
    """Brings the template in, unless it is there, and says where this Keystone is."""
    database = keystone.path('keystone.sqlite')
    if not os.path.exists(database):
        for name in ('fernet', 'credential'):
            shutil.copytree(os.path.join(TEMPLATE, name), keystone.path(name),
                            dirs_exist_ok=True)
        # Last, and complete at once: with it, all is there.
        shutil.copy(os.path.join(TEMPLATE, 'keystone.sqlite'), database + '.new')
        os.rename(database + '.new', database)
    connection = sqlite3.connect(database)
    with connection:
        connection.execute('update endpoint set url = ? where service_id in '
                           '(select id from service where type = "identity")', [url])
    connection.close()


def serve(keystone, sock, options):
    template.configure(keystone.folder, options.token_life)
    sys.argv = ['keystone']
    from keystone.server.wsgi import initialize_public_application
    server = Server(sock.getsockname(), Handler, bind_and_activate=False)
    server.socket = sock
    server.server_name, server.server_port = '127.0.0.1', sock.getsockname()[1]
    server.setup_environ()
    server.set_app(initialize_public_application())
    server.serve_forever()


def main():
    options = service.arguments('Serves a Keystone until it is ended.').parse_args()
    keystone = service.Service(options)
    try:
        sock = keystone.listen(['keystone'])['keystone']
        port = sock.getsockname()[1]
        url = 'http://127.0.0.1:%d/v3' % port
        furnish(keystone, url)
        keystone.fork('keystone', lambda: serve(keystone, sock, options))
        sock.close()
        service.wait_until(keystone, lambda: service.answers(url))
        with open(os.path.join(TEMPLATE, 'info.json'), encoding='utf-8') as file:
            info = json.load(file)
        keystone.announce(dict(info, url=url, auth_url=url, port=port))
        keystone.wait()
    finally:
        keystone.end()


if __name__ == '__main__':
    main()
