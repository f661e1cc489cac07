"""The guest image's parts: archive, kernel, modules, command line."""

from __future__ import annotations

import platform
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from cprlib.build.guest_image import pack_initramfs, unpack_kernel
from cprlib.build.initramfs import CpioArchive, KernelModule, module_depends, modules_dep, read_modules
from cprlib.errors import BuildFailed
from cprlib.guest.image import kernel_command_line
from cprlib.linux.topology import guest_end


def entries(data: bytes) -> dict[str, tuple[list[int], bytes]]:
    """A newc archive's entries by name: the 13 numbers of the header, and the content."""
    found: dict[str, tuple[list[int], bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + numbers[11] - 1].decode()
        begin = (at + 110 + numbers[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (numbers, data[begin : begin + numbers[6]])
        at = (begin + numbers[6] + 3) & ~3


def test_archive_can_be_read_back() -> None:
    archive = CpioArchive()
    archive.folder("bin")
    archive.file("bin/odd", b"odd", 0o755)
    archive.symlink("bin/link", "odd")
    archive.character_device("console", 5, 1)
    data = archive.data()
    assert len(data) % 512 == 0
    found = entries(data)
    assert list(found) == ["bin", "bin/odd", "bin/link", "console"]
    assert found["bin/odd"][1] == b"odd"
    assert found["bin/odd"][0][1] == stat.S_IFREG | 0o755
    assert found["bin/link"][1] == b"odd"
    assert found["console"][0][9:11] == [5, 1]
    assert len({numbers[0] for numbers, _ in found.values()}) == 4
    assert archive.data() == data


def zstd_frame(content: bytes) -> bytes:
    """A zstd frame (RFC 8878) of one raw block."""
    block = struct.pack("<I", len(content) << 3 | 1)[:3] + content
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(content)) + block


def bzimage(payload: bytes) -> bytes:
    head = bytearray(2 * 512)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + b"\x90" * 16 + payload + b"\xcc" * 100


def test_kernel_is_unpacked() -> None:
    elf = b"\x7fELF" + b"kernel" * 10
    packed = zstd_frame(elf) + struct.pack("<I", len(elf))
    assert unpack_kernel(bzimage(packed)) == elf


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\0" * 4096,
        bzimage(b"\x1f\x8b gzip"),
        bzimage(zstd_frame(b"no kernel") + bytes(4)),
        bzimage(b"\x28\xb5\x2f\xfd broken" + bytes(4)),
    ],
)
def test_what_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(BuildFailed):
        unpack_kernel(image)


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    for name, needs in {"top": "mid,low-er", "mid": "low-er", "low-er": ""}.items():
        (tmp_path / f"{name}.ko").write_bytes(b"\0name=x\0depends=" + needs.encode() + b"\0retpoline=Y\0")
    modules = read_modules(tmp_path, ["top"])
    assert [module.name for module in modules] == ["low_er", "mid", "top"]
    assert modules_dep(modules) == "low_er.ko:\nmid.ko: low_er.ko\ntop.ko: mid.ko low_er.ko\n"


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="virtio_net"):
        read_modules(tmp_path, ["virtio_net"])


def test_depends_of_a_module_without_any() -> None:
    assert module_depends(b"no section") == ()


def test_initramfs_is_the_same_every_time() -> None:
    modules = [KernelModule("virtio_net", b"code", ())]

    def pack() -> bytes:
        return pack_initramfs(release="6.12", modules=modules, busybox=b"B", init=b"I", agent=b"A")

    found = entries(pack())
    assert pack() == pack()
    assert found["lib/modules/6.12/virtio_net.ko"][1] == b"code"
    assert found["init"][0][1] & 0o111
    assert "dev/console" in found


def test_command_line_names_every_nic() -> None:
    words = kernel_command_line([guest_end(0), guest_end(1)], queue_pairs=4).split()
    assert "cprlib.ipv4=10.75.0.2/24,10.75.1.2/24" in words
    assert "cprlib.ipv6=fd75::2/64,fd75:1::2/64" in words
    assert "cprlib.queue_pairs=4" in words


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the TSC is x86's")
def test_the_command_line_of_an_emulated_guest_has_the_tsc_rate() -> None:
    (word,) = (word for word in kernel_command_line([]).split() if word.startswith("tsc_early_khz="))
    assert 500_000 < int(word.partition("=")[2]) < 10_000_000
    assert "tsc" not in kernel_command_line([], emulated=False)


def test_init_is_a_shell_script_without_mistakes() -> None:
    init = Path(__file__).parents[3] / "images" / "guest" / "init"
    subprocess.run(["sh", "-n", str(init)], check=True)
