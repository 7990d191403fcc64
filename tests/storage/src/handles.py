# Handles of files on /mnt/d: `make` keeps some in a file there, `find` opens them after another mount.
import ctypes, errno, os, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, KEPT = -100, "/mnt/d/kept"


def handle(path):
    b, mount = ctypes.create_string_buffer(136), ctypes.c_int()
    struct.pack_into("Ii", b, 0, 128, 0)
    if libc.name_to_handle_at(AT_FDCWD, path.encode(), b, ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), path)
    return b.raw[: 8 + struct.unpack_from("I", b, 0)[0]]


def open_by(handle, flags=os.O_RDONLY):
    mount = os.open("/mnt/d", os.O_RDONLY)
    fd = libc.open_by_handle_at(mount, ctypes.create_string_buffer(handle), flags)
    error = ctypes.get_errno()
    os.close(mount)
    return fd if fd >= 0 else errno.errorcode[error]


if sys.argv[1] == "make":
    os.makedirs("/mnt/d/a/b/c")
    for path, text in [("/mnt/d/a/b/c/f", "deep"), ("/mnt/d/a/x", "up"), ("/mnt/d/gone", "")]:
        with open(path, "w") as f:
            f.write(text)
    with open(KEPT, "w") as f:
        for path in ["/mnt/d/a/b", "/mnt/d/a/b/c/f", "/mnt/d/gone"]:
            f.write(handle(path).hex() + "\n")
    os.rename("/mnt/d/a", "/mnt/d/new")
    os.remove("/mnt/d/gone")
    print("made")
    sys.exit()

with open(KEPT) as f:
    directory, file, gone = (bytes.fromhex(line) for line in f)
size, kind = struct.unpack_from("Ii", file, 0)
print(f"kind {kind}, {size} bytes")
fd = open_by(directory, os.O_RDONLY | os.O_DIRECTORY)
print("directory", os.readlink(f"/proc/self/fd/{fd}"))
os.fchdir(fd)
print("below", open("c/f").read() + ", above", open("../x").read())
os.chdir("/")
print("file", os.read(open_by(file), 10).decode())
print("removed", open_by(gone))
ino, generation = struct.unpack_from("II", file, 8)
print("other generation", open_by(struct.pack("IiII", 8, 1, ino, generation ^ 1)))
# Numbers that are the filesystem's own, free or beyond the last: with any generation none is a file.
wrong = [0, 1, 3, 7, 8, 10, ino + 100, 0x7fffffff, 0xffffffff]
print("numbers", *{open_by(struct.pack("IiII", 8, 1, n, 0)) for n in wrong})
