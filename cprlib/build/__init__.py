"""Build QEMU, mutants, guest image and lab kernel; results are stored under a hash of their inputs."""
