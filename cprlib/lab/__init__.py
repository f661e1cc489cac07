"""The lab: a disposable kernel with tun, vhost-net and root, for hosts that have not got them.

:mod:`cprlib.lab.engine` is the interface; :mod:`cprlib.lab.uml` and :mod:`cprlib.lab.kvm` are its engines;
:mod:`cprlib.lab.spawner` lets Avocado run each test in a lab of its own; :mod:`cprlib.lab.doctor` says
whether a lab is needed on this host.
"""
