"""An S3 endpoint that really checks signatures: OpenStack Swift with ``s3api``, all its servers in one process.

Runs in an environment of its own (``swift-constraints.txt``):
``SWIFT_SECRET=… python -W ignore swift_one_process.py FOLDER PORT ACCOUNT:USER``. The data in FOLDER outlive it.
"""

import eventlet

eventlet.monkey_patch()

import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from eventlet import wsgi  # noqa: E402

_LOOPBACK = "127.0.0.1"
_DEVICE = "disk"
_RINGS = ("account", "container", "object")


def _configure(etc: Path) -> None:
    """Point Swift, which reads ``/etc/swift/swift.conf`` as it is imported, at a configuration of ours."""
    (etc / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = prefix\nswift_hash_path_suffix = suffix\n"
        "[storage-policy:0]\nname = default\ndefault = yes\n"
    )
    from swift.common import storage_policy, utils
    from swift.common.utils import config

    for module in (utils, config):
        module.SWIFT_CONF_FILE = str(etc / "swift.conf")
        module.HASH_PATH_PREFIX, module.HASH_PATH_SUFFIX = b"prefix", b"suffix"
    storage_policy.reload_storage_policies()


def _build_ring(etc: Path, name: str, port: int) -> None:
    from swift.common.ring.builder import RingBuilder

    device = {"region": 1, "zone": 1, "device": _DEVICE, "weight": 1.0, "meta": ""}
    device |= {"ip": _LOOPBACK, "port": port, "replication_ip": _LOOPBACK, "replication_port": port}
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=1)
    builder.add_dev(device)
    builder.rebalance()
    builder.get_ring().save(str(etc / f"{name}.ring.gz"))


def _storage_configuration(folder: Path, name: str) -> str:
    return f"""
[DEFAULT]
swift_dir = {folder / "etc"}
devices = {folder / "devices"}
mount_check = false
log_address = /nonexistent
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""


def _proxy_configuration(folder: Path, account: str, user: str, secret: str) -> str:
    return f"""
[DEFAULT]
swift_dir = {folder / "etc"}
log_address = /nonexistent
[pipeline:main]
pipeline = catch_errors proxy-logging cache s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = {_LOOPBACK}:1
[filter:s3api]
use = egg:swift#s3api
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret} .admin .reseller_admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


def main(folder: Path, port: int, access_key: str, secret: str) -> None:
    """Serve until killed."""
    etc = folder / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    (folder / "devices" / _DEVICE).mkdir(parents=True, exist_ok=True)
    proxy_socket = eventlet.listen((_LOOPBACK, port), backlog=128)
    _configure(etc)

    from swift.common.utils import get_logger
    from swift.common.wsgi import ConfigString, SwiftHttpProtocol, loadapp

    get_logger({"log_level": "WARNING", "log_address": "/nonexistent"}, "swift")
    pool = eventlet.GreenPool(2000)

    no_log = Path(os.devnull).open("w")  # noqa: SIM115

    def serve(listener: object, configuration: str) -> None:
        wsgi.server(
            listener,
            loadapp(ConfigString(configuration), global_conf={}),
            no_log,
            custom_pool=pool,
            protocol=SwiftHttpProtocol,
            debug=False,
            capitalize_response_headers=False,  # eventlet's "Etag" for "ETag" breaks clients
        )

    listeners = {name: eventlet.listen((_LOOPBACK, 0), backlog=128) for name in _RINGS}
    for name, listener in listeners.items():
        _build_ring(etc, name, listener.getsockname()[1])
    for name, listener in listeners.items():
        eventlet.spawn(serve, listener, _storage_configuration(folder, name))
    account, user = access_key.split(":")
    serve(proxy_socket, _proxy_configuration(folder, account, user, secret))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), sys.argv[3], os.environ["SWIFT_SECRET"])
