#!/usr/bin/env python3
"""Makes what every Keystone of ./serve.py begins with: a database and keys. This takes ten
seconds, mostly for Keystone's own steps from one form of its database to the next.

    template.py FOLDER

All that is in it:

| user     | password     | domain    | may |
|----------|--------------|-----------|-----|
| admin    | adminpass    | Default   | everything (project admin) |
| swift    | swiftpass    | Default   | ask whether tokens are right |
| cinder   | cinderpass   | Default   | be a member of the projects service, test1 to test19 |
| reader   | readerpass   | Default   | read in the project service |
| guest    | guestpass    | Default   | what a container of the project service grants to the role observer |
| stranger | strangerpass | Default   | nothing: no role in any project |
| keeper   | keeperpass   | Elsewhere | be a member of the project vault of its domain |

and an application credential of cinder in the project service, whose secret is `appsecret`
and whose id is in FOLDER/info.json.
"""

import json
import os
import shutil
import sys

sys.dont_write_bytecode = True

CONF = """[DEFAULT]
log_file = {folder}/keystone.log

[database]
connection = sqlite:///{folder}/keystone.sqlite
sqlite_synchronous = false

[token]
provider = fernet
expiration = {token_life}

[fernet_tokens]
key_repository = {folder}/fernet

[credential]
key_repository = {folder}/credential

[identity]
password_hash_algorithm = bcrypt
password_hash_rounds = 4

[cache]
enabled = true
backend = dogpile.cache.memory
"""

DEFAULT = 'default'


def configure(folder, token_life):
    """Makes Keystone's modules look into a folder."""
    path = os.path.join(folder, 'keystone.conf')
    with open(path, 'w', encoding='utf-8') as file:
        file.write(CONF.format(folder=folder, token_life=token_life))
    os.environ['OS_KEYSTONE_CONFIG_FILES'] = path
    return path


def manage(path, *arguments):
    """keystone-manage, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        program = os.path.join(sys.prefix, 'bin', 'keystone-manage')
        os.execv(program, [program, '--config-file', path, *arguments])
    if os.waitpid(pid, 0)[1]:
        sys.exit('keystone-manage %s failed' % arguments[0])


class Api:
    """Keystone's interface, without a network."""

    def __init__(self):
        sys.argv = ['keystone']
        from keystone.server.wsgi import initialize_public_application
        self.app = initialize_public_application()
        self.token = None

    def ask(self, method, path, body=None, token=None):
        import webob
        request = webob.Request.blank('/v3' + path, method=method)
        request.headers['Content-Type'] = 'application/json'
        if token or self.token:
            request.headers['X-Auth-Token'] = token or self.token
        if body is not None:
            request.body = json.dumps(body).encode()
        answer = request.get_response(self.app)
        if answer.status_int >= 300:
            sys.exit('%s %s: %s %s' % (method, path, answer.status, answer.text))
        return answer

    def make(self, kind, **fields):
        """Gives the id of what is made."""
        answer = self.ask('POST', '/%ss' % kind, {kind: fields})
        return answer.json[kind]['id']

    def find(self, kind, name):
        found = self.ask('GET', '/%ss?name=%s' % (kind, name)).json[kind + 's']
        return found[0]['id']

    def log_in(self, name, password, project):
        answer = self.ask('POST', '/auth/tokens', {'auth': {
            'identity': {'methods': ['password'], 'password': {'user': {
                'name': name, 'password': password, 'domain': {'id': DEFAULT}}}},
            'scope': {'project': {'name': project, 'domain': {'id': DEFAULT}}}}})
        return answer.headers['X-Subject-Token']


def fill(api):
    """Makes what is said above. Gives what tests cannot know beforehand."""
    api.token = api.log_in('admin', 'adminpass', 'admin')
    roles = {name: api.find('role', name) for name in ('admin', 'member', 'reader', 'service')}
    roles['observer'] = api.make('role', name='observer')

    def grant(user, role, project):
        api.ask('PUT', '/projects/%s/users/%s/roles/%s' % (project, user, roles[role]))

    def user(name, domain=DEFAULT):
        return api.make('user', name=name, password=name + 'pass', domain_id=domain)

    def project(name, domain=DEFAULT):
        return api.make('project', name=name, domain_id=domain)

    service = project('service')
    swift = user('swift')
    for role in ('admin', 'service'):
        grant(swift, role, service)
    cinder = user('cinder')
    grant(cinder, 'member', service)
    for number in range(1, 20):
        grant(cinder, 'member', project('test%d' % number))
    grant(user('reader'), 'reader', service)
    grant(user('guest'), 'observer', service)
    user('stranger')
    elsewhere = api.make('domain', name='Elsewhere')
    grant(user('keeper', elsewhere), 'member', project('vault', elsewhere))

    api.make('service', type='object-store', name='swift')
    credential = api.ask(
        'POST', '/users/%s/application_credentials' % cinder,
        {'application_credential': {'name': 'cinderfs', 'secret': 'appsecret'}},
        token=api.log_in('cinder', 'cinderpass', 'service'))
    return {'application_credential_id': credential.json['application_credential']['id'],
            'project_id': service}


def main():
    folder = os.path.abspath(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    for name in ('', 'fernet', 'credential'):
        os.makedirs(os.path.join(folder, name), mode=0o700)
    conf = configure(folder, 86400)
    manage(conf, 'db_sync')
    owner = ['--keystone-user', str(os.geteuid()), '--keystone-group', str(os.getegid())]
    manage(conf, 'fernet_setup', *owner)
    manage(conf, 'credential_setup', *owner)
    # The address is another one for each server.
    url = 'http://127.0.0.1:1/v3'
    manage(conf, 'bootstrap', '--bootstrap-password', 'adminpass',
           '--bootstrap-region-id', 'RegionOne', '--bootstrap-public-url', url,
           '--bootstrap-internal-url', url, '--bootstrap-admin-url', url)
    info = fill(Api())
    with open(os.path.join(folder, 'info.json'), 'w', encoding='utf-8') as file:
        json.dump(info, file)


if __name__ == '__main__':
    main()
