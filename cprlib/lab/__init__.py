"""The lab: a disposable kernel with tun, vhost-net and root rights, for hosts that lack them.

:mod:`cprlib.lab.engine` is the interface; :mod:`cprlib.lab.uml` and :mod:`cprlib.lab.kvm` are its engines;
:mod:`cprlib.lab.spawner` lets Avocado run each test in its own lab; :mod:`cprlib.lab.doctor` reports whether this
host needs a lab.
"""
